// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The interface of the test device of the RFC "Machine Learning (ML) library in Linux kernel" (February 2026),
 * written from its description in docs/proxy.md: /dev/mllibdev, three ioctls and a newer fourth, a dataset of
 * 1024 bytes that is read, recommendations that are written and never applied, and the attribute
 * `ml_model1/control` of the device.
 */
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/ioctl.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#define BUFFER_BYTES 1024
#define MLLIB_RESET _IO('M', 0)
#define MLLIB_GETSIZE _IOR('M', 1, int)
#define MLLIB_SETSIZE _IOW('M', 2, int)
#define MLLIB_GETMODELID _IOR('M', 3, u32)

static bool older;
module_param(older, bool, 0444);
MODULE_PARM_DESC(older, "do without the ioctl GETMODELID, as the first tree does");

static DEFINE_MUTEX(lock); /* everything below */
static char dataset[BUFFER_BYTES];
static size_t dataset_bytes = BUFFER_BYTES;
static bool prepared, started;
static u32 generation;
static char recommendations[BUFFER_BYTES];

static ssize_t mllib_read(struct file *file, char __user *buffer, size_t count, loff_t *position)
{
	ssize_t done = 0;

	mutex_lock(&lock);
	if (prepared)
		done = simple_read_from_buffer(buffer, count, position, dataset, dataset_bytes);
	mutex_unlock(&lock);
	return done;
}

/* Recommendations have a buffer of their own: what does not fit is not taken. */
static ssize_t mllib_write(struct file *file, const char __user *buffer, size_t count, loff_t *position)
{
	ssize_t done;

	if (*position >= BUFFER_BYTES)
		return count ? -ENOSPC : 0;
	mutex_lock(&lock);
	done = simple_write_to_buffer(recommendations, BUFFER_BYTES, position, buffer, count);
	mutex_unlock(&lock);
	return done;
}

static long mllib_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	int value;
	long error = 0;

	mutex_lock(&lock);
	switch (command) {
	case MLLIB_RESET:
		memset(dataset, 0, sizeof(dataset));
		memset(recommendations, 0, sizeof(recommendations));
		dataset_bytes = BUFFER_BYTES;
		prepared = false;
		break;
	case MLLIB_GETSIZE:
		value = dataset_bytes;
		error = put_user(value, (int __user *)argument);
		break;
	case MLLIB_SETSIZE:
		error = get_user(value, (int __user *)argument);
		if (!error && (value < 0 || value > BUFFER_BYTES))
			error = -EINVAL;
		if (!error)
			dataset_bytes = value;
		break;
	case MLLIB_GETMODELID:
		error = older ? -ENOTTY : put_user((u32)1, (u32 __user *)argument);
		break;
	default:
		error = -ENOTTY;
	}
	mutex_unlock(&lock);
	return error;
}

static const struct file_operations mllib_operations = {
	.owner = THIS_MODULE,
	.read = mllib_read,
	.write = mllib_write,
	.unlocked_ioctl = mllib_ioctl,
	.llseek = default_llseek,
};

static struct miscdevice mllib_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mllibdev",
	.fops = &mllib_operations,
	.mode = 0600,
};

static void prepare(void)
{
	size_t i;

	if (prepared)
		return; /* without a discard it is the same data */
	generation++;
	for (i = 0; i < BUFFER_BYTES; i++)
		dataset[i] = 'a' + (i + generation) % 26;
	prepared = true;
}

static ssize_t control_store(struct kobject *object, struct kobj_attribute *attribute, const char *text,
			     size_t count)
{
	ssize_t done = count;

	mutex_lock(&lock);
	if (sysfs_streq(text, "start"))
		started = true;
	else if (sysfs_streq(text, "stop"))
		started = false;
	else if (sysfs_streq(text, "prepare_dataset"))
		prepare();
	else if (sysfs_streq(text, "discard_dataset"))
		prepared = false;
	else
		done = -EOPNOTSUPP;
	mutex_unlock(&lock);
	return done;
}

static struct kobj_attribute control = __ATTR_WO(control);
static struct kobject *model;

static int __init mllib_init(void)
{
	int error = misc_register(&mllib_device);

	if (error)
		return error;
	model = kobject_create_and_add("ml_model1", &mllib_device.this_device->kobj);
	error = model ? sysfs_create_file(model, &control.attr) : -ENOMEM;
	if (error) {
		kobject_put(model);
		misc_deregister(&mllib_device);
	}
	return error;
}

static void __exit mllib_exit(void)
{
	kobject_put(model);
	misc_deregister(&mllib_device);
}

module_init(mllib_init);
module_exit(mllib_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The interface of the ML library's test device, for tests");
