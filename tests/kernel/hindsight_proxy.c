// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A proxy as docs/proxy.md describes it, over a character device: /dev/hindsight_proxy.
 *
 * A read at position 0 prepares a snapshot; the same open file then reads that one on. A write is one
 * recommendation, at most 4096 bytes. In sysfs, below /sys/class/misc/hindsight_proxy/: `mode`, `window`
 * (what the only actuator is set to) and `answer` (to the last recommendation).
 *
 * The parameter `fault` makes it misbehave, so that its readers can be tested: malformed, oversize, newer (a
 * schema that nobody knows), gap (leaves out sequence numbers), slow (200 ms a snapshot), hang (until the
 * fault is taken back, even without O_NONBLOCK).
 */
#include <linux/ctype.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#define DOCUMENT_BYTES 4096
#define OVERSIZE_BYTES (1 << 20)
#define MESSAGE_BYTES 4096
#define WINDOW_MIN 4
#define WINDOW_MAX 4096
#define STALE 16
#define BOOT_ID_BYTES 36
#define ID_BYTES 65

enum { NONE, MALFORMED, OVERSIZE, NEWER, GAP, SLOW, HANG };
static const char *const fault_names[] = { "none", "malformed", "oversize", "newer", "gap", "slow", "hang", NULL };
static const char *const mode_names[] = { "unknown", "emergency", "learning", "collaboration",
					  "recommendation", NULL };
#define EMERGENCY 1
#define LEARNING 2

static DEFINE_MUTEX(lock); /* everything below */
static u64 sequence;
static u64 counted_reads, counted_writes, counted_refused;
static long long window = 128;
static int mode = LEARNING;
static char boot_id[BOOT_ID_BYTES + 1];
static char answer[512] = "\n";

static int fault;
static DECLARE_WAIT_QUEUE_HEAD(fault_changed);

static int fault_set(const char *text, const struct kernel_param *parameter)
{
	int found = sysfs_match_string(fault_names, text);

	if (found < 0)
		return found;
	WRITE_ONCE(fault, found);
	wake_up_all(&fault_changed);
	return 0;
}

static int fault_get(char *text, const struct kernel_param *parameter)
{
	return sysfs_emit(text, "%s\n", fault_names[READ_ONCE(fault)]);
}

static const struct kernel_param_ops fault_ops = { .set = fault_set, .get = fault_get };
module_param_cb(fault, &fault_ops, NULL, 0644);
MODULE_PARM_DESC(fault, "how it misbehaves: none, malformed, oversize, newer, gap, slow, hang");

struct document {
	struct mutex lock;
	size_t length;
	char *text;
};

/* The text of the next snapshot. */
static size_t prepare(char *text, size_t room, int wrong)
{
	struct sysinfo memory;
	size_t length;

	si_meminfo(&memory);
	mutex_lock(&lock);
	sequence += wrong == GAP ? 3 : 1;
	length = scnprintf(text, room,
		"{\"schema\":%d,\"proxy\":\"null\",\"subsystem\":\"test\",\"boot_id\":\"%s\",\"sequence\":%llu,"
		"\"mono_ns\":%lld,\"mode\":\"%s\","
		"\"dataset\":{\"type\":\"structure\",\"state\":\"clean\",\"offset\":0,\"size\":%d},"
		"\"state\":{\"reads\":%llu,\"writes\":%llu,\"total_pages\":%lu,\"free_pages\":%lu},"
		"\"actuators\":[{\"name\":\"window\",\"current\":%lld,\"min\":%d,\"max\":%d,\"scope\":\"host\"}],"
		"\"lost\":{\"recommendations\":%llu}}\n",
		wrong == NEWER ? 2 : 1, boot_id, sequence, ktime_get_ns(), mode_names[mode], DOCUMENT_BYTES,
		counted_reads, counted_writes, memory.totalram, memory.freeram, window, WINDOW_MIN, WINDOW_MAX,
		counted_refused);
	counted_reads++;
	mutex_unlock(&lock);
	if (wrong == MALFORMED)
		length /= 2;
	if (wrong == OVERSIZE) {
		memset(text + length - 2, ' ', room - length);
		memcpy(text + room - 2, "}\n", 2);
		length = room;
	}
	return length;
}

static int proxy_open(struct inode *inode, struct file *file)
{
	struct document *document = kzalloc(sizeof(*document), GFP_KERNEL);

	if (!document)
		return -ENOMEM;
	mutex_init(&document->lock);
	file->private_data = document;
	return 0;
}

static int proxy_release(struct inode *inode, struct file *file)
{
	struct document *document = file->private_data;

	kvfree(document->text);
	kfree(document);
	return 0;
}

static ssize_t proxy_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
	struct document *document = file->private_data;
	int wrong = READ_ONCE(fault);
	ssize_t done;

	if (wrong == HANG && wait_event_interruptible(fault_changed, READ_ONCE(fault) != HANG))
		return -ERESTARTSYS;
	wrong = READ_ONCE(fault);
	if (wrong == SLOW && *position == 0 && msleep_interruptible(200))
		return -ERESTARTSYS;
	if (mutex_lock_interruptible(&document->lock))
		return -ERESTARTSYS;
	if (*position == 0) {
		size_t room = wrong == OVERSIZE ? OVERSIZE_BYTES : DOCUMENT_BYTES;

		kvfree(document->text);
		document->length = 0;
		document->text = kvmalloc(room, GFP_KERNEL);
		if (document->text)
			document->length = prepare(document->text, room, wrong);
	}
	done = document->text ? simple_read_from_buffer(buffer, count, position, document->text, document->length)
			      : -ENOMEM;
	mutex_unlock(&document->lock);
	return done;
}

/* The number or the text behind a member of a flat JSON object that has no blanks; -EINVAL: it is not there. */
static const char *member(const char *text, const char *name)
{
	char key[32];
	const char *found;

	snprintf(key, sizeof(key), "\"%s\":", name);
	found = strstr(text, key);
	return found ? found + strlen(key) : NULL;
}

static int number_of(const char *text, const char *name, long long *value)
{
	const char *at = member(text, name);
	char digits[24];
	size_t length;

	if (!at)
		return -EINVAL;
	length = strcspn(at, ",}");
	if (length >= sizeof(digits))
		return -ERANGE;
	memcpy(digits, at, length);
	digits[length] = 0;
	return kstrtoll(digits, 10, value);
}

static int text_of(const char *text, const char *name, char *value, size_t room)
{
	const char *at = member(text, name);
	size_t length;

	if (!at || *at != '"')
		return -EINVAL;
	length = strcspn(++at, "\"\\");
	if (at[length] != '"' || length >= room)
		return -EINVAL;
	memcpy(value, at, length);
	value[length] = 0;
	return 0;
}

/* What becomes of a recommendation: 0, or why it is refused. The lock is held. */
static int judge(const char *text, char *id, long long *used)
{
	char name[ID_BYTES];
	long long schema, based_on, ttl;

	if (text_of(text, "id", id, ID_BYTES) || number_of(text, "schema", &schema) || schema != 1 ||
	    number_of(text, "sequence", &based_on) || number_of(text, "ttl_ns", &ttl) || ttl < 1 ||
	    number_of(text, "value", used) || text_of(text, "proxy", name, sizeof(name)) || strcmp(name, "null"))
		return -EINVAL;
	if (text_of(text, "actuator", name, sizeof(name)) || strcmp(name, "window"))
		return -ENOENT;
	if (based_on < 0 || based_on > sequence || sequence - based_on > STALE)
		return -ESTALE;
	return mode <= EMERGENCY ? -EPERM : 0;
}

static const char *errno_name(int error)
{
	switch (error) {
	case -ENOENT: return "ENOENT";
	case -ESTALE: return "ESTALE";
	case -EPERM: return "EPERM";
	default: return "EINVAL";
	}
}

static ssize_t proxy_write(struct file *file, const char __user *buffer, size_t count, loff_t *position)
{
	char id[ID_BYTES] = "unknown";
	long long value, used;
	char *text;
	int error;

	if (count > MESSAGE_BYTES)
		return -EMSGSIZE;
	text = memdup_user_nul(buffer, count);
	if (IS_ERR(text))
		return PTR_ERR(text);
	mutex_lock(&lock);
	counted_writes++;
	error = judge(text, id, &value);
	if (error) {
		counted_refused++;
		scnprintf(answer, sizeof(answer),
			  "{\"schema\":1,\"id\":\"%s\",\"mono_ns\":%lld,\"verdict\":\"refused\",\"used\":null,"
			  "\"read_back\":null,\"reason\":\"%s\"}\n", id, ktime_get_ns(), errno_name(error));
	} else if (mode == LEARNING) {
		scnprintf(answer, sizeof(answer),
			  "{\"schema\":1,\"id\":\"%s\",\"mono_ns\":%lld,\"verdict\":\"tested\",\"used\":null,"
			  "\"read_back\":null,\"reason\":null}\n", id, ktime_get_ns());
	} else {
		used = clamp_t(long long, value, WINDOW_MIN, WINDOW_MAX);
		window = used;
		scnprintf(answer, sizeof(answer),
			  "{\"schema\":1,\"id\":\"%s\",\"mono_ns\":%lld,\"verdict\":\"%s\",\"used\":%lld,"
			  "\"read_back\":%lld,\"reason\":null}\n", id, ktime_get_ns(),
			  used == value ? "accepted" : "clamped", used, window);
	}
	mutex_unlock(&lock);
	kfree(text);
	return error ? error : count;
}

static const struct file_operations proxy_operations = {
	.owner = THIS_MODULE,
	.open = proxy_open,
	.release = proxy_release,
	.read = proxy_read,
	.write = proxy_write,
	.llseek = default_llseek,
};

static ssize_t mode_show(struct device *device, struct device_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%s\n", mode_names[READ_ONCE(mode)]);
}

static ssize_t mode_store(struct device *device, struct device_attribute *attribute, const char *text,
			  size_t count)
{
	int found = sysfs_match_string(mode_names, text);

	if (found < 0)
		return found;
	mutex_lock(&lock);
	mode = found;
	mutex_unlock(&lock);
	return count;
}
static DEVICE_ATTR_RW(mode);

static ssize_t window_show(struct device *device, struct device_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%lld\n", READ_ONCE(window));
}
static DEVICE_ATTR_RO(window);

static ssize_t answer_show(struct device *device, struct device_attribute *attribute, char *text)
{
	ssize_t length;

	mutex_lock(&lock);
	length = sysfs_emit(text, "%s", answer);
	mutex_unlock(&lock);
	return length;
}
static DEVICE_ATTR_RO(answer);

static struct attribute *proxy_attributes[] = {
	&dev_attr_mode.attr, &dev_attr_window.attr, &dev_attr_answer.attr, NULL
};
static const struct attribute_group proxy_group = { .attrs = proxy_attributes };
static const struct attribute_group *proxy_groups[] = { &proxy_group, NULL };

static struct miscdevice proxy_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "hindsight_proxy",
	.fops = &proxy_operations,
	.groups = proxy_groups,
	.mode = 0600,
};

/* No symbol gives it to modules. */
static int read_boot_id(void)
{
	struct file *file = filp_open("/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
	loff_t position = 0;
	ssize_t length;

	if (IS_ERR(file))
		return PTR_ERR(file);
	length = kernel_read(file, boot_id, BOOT_ID_BYTES, &position);
	filp_close(file, NULL);
	return length == BOOT_ID_BYTES ? 0 : -EIO;
}

static int __init proxy_init(void)
{
	int error = read_boot_id();

	return error ? error : misc_register(&proxy_device);
}

static void __exit proxy_exit(void)
{
	misc_deregister(&proxy_device);
}

module_init(proxy_init);
module_exit(proxy_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A proxy over a character device, for tests");
