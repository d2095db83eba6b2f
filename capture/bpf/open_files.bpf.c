// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Which open file each read and each readahead decision belongs to.
 *
 * An open file is known by an ordinal of the capture: it is given out when a read or a decision first meets
 * the file's address, and taken back when the kernel frees that memory. So it does not matter who opened the
 * file, and no address leaves the kernel.
 *
 * Records begin like a tracepoint's (common_type, common_pid); capture/bpf/records.py has their layouts.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL v2";

/* What is used of the kernel's structures; the loader moves it to where this kernel has it. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct super_block {
	__u32 s_dev;
};
struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	long long i_size;
};
struct address_space {
	struct inode *host;
};
struct file_ra_state {
	unsigned long start;
	unsigned int size;
	unsigned int async_size;
	unsigned int ra_pages;
	long long prev_pos;
};
struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct address_space *f_mapping;
	long long f_pos;
	struct file_ra_state f_ra;
};
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct thread_info {
	__u32 status;
};
struct task_struct {
	struct thread_info thread_info;
	struct files_struct *files;
	int pid;
	int tgid;
};
struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9;
};
struct kmem_cache {
	unsigned int object_size;
	const char *name;
};
struct kiocb {
	long long ki_pos;
};
struct io_cqe {
	int fd;
};
struct io_kiocb {
	struct file *file;
	__u8 opcode;
	__u64 flags;
	struct io_cqe cqe;
};
struct io_rw {
	struct kiocb kiocb;
	__u64 addr;
	__u32 len;
};
struct io_uring_cqe {
	__s32 res;
};
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};
#pragma clang attribute pop

/* A pointer as one to a type of this kernel, which may be read through directly. */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;
#define AS_FILE(pointer) ((struct file *)bpf_rdonly_cast(pointer, bpf_core_type_id_kernel(struct file)))
/* The readahead state lies in a union, through which the verifier does not follow. */
#define RA_OFFSET __builtin_preserve_field_info(((struct file *)0)->f_ra, 0)
#define RA_OF(file) \
	((struct file_ra_state *)bpf_rdonly_cast((void *)(file) + RA_OFFSET, \
						 bpf_core_type_id_kernel(struct file_ra_state)))

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define TS_COMPAT 2
#define IORING_OP_READV 1
#define IORING_OP_READ_FIXED 4
#define IORING_OP_READ 22
#define IORING_OP_READV_FIXED 60
#define IOSQE_FIXED_FILE 1                           /* of a table of files, not by descriptor */
#define IOSQE_ASYNC 16                               /* a worker reads */
#define MINOR_BITS 20
#define BPF_F_CURRENT_CPU 0xffffffffULL

enum { OPENS = 1, RELEASES, READS, DECISIONS };      /* common_type */
enum { AT_USE, AT_START, AGAIN };                    /* why an open file is described */
enum { SYNC, ASYNC, ORDER };                         /* decisions */
#define RING_CALL 12                                 /* `call` of a read through io_uring */
#define NOT_THERE 15                                 /* of a call's arguments: it has none of that kind */
#define POINTER 8                                    /* of its position: it is pointed to, or NULL */
#define VECTOR 8                                     /* of its size: pieces of a vector, argument before */
#define PIECES 64                                    /* of a vector, that are added up */

struct call {
	__u8 number; /* 0 = this system call is not looked at */
	__u8 fd, count, pos;
};

/* Set before it is loaded. */
const volatile struct settings {
	struct call calls[512];
	__u32 device_count; /* 0 = all */
	__u32 devices[16];
	__u64 ring_mask; /* size of a ring buffer, a power of two, - 8 */
} settings SEC(".rodata.settings") = {};

/* Changed while it runs. */
struct state {
	__u32 recording;
	__u32 only_listed;  /* threads of the list are recorded; else all but those */
	__u32 following;    /* threads that listed ones create are listed */
	__u32 shed;         /* bit (common_type): these records are not wanted */
	__u32 epoch;        /* open files that were described in an earlier one are described again */
	__u32 last_ordinal;
	__u64 caches[2];    /* the slab caches of open files that were met: filp, bfilp */
} state SEC(".data.state") = { .epoch = 1 };

#define PIDS (1 << 22)
__u64 listed[PIDS / 64] = {};

struct identity {
	__u32 ordinal;
	__u32 described; /* in this epoch */
	__u64 mapping;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct identity);
} identities SEC(".maps");

/* Of each processor; the recorder maps them. Two lines of the cache each. */
struct counters {
	__u64 recorded;
	__u64 lost;
	__u64 head;      /* where the next record goes, in bytes since the beginning */
	__u64 busy;      /* a record is being written */
	__u64 unused[4];
	__u64 tail;      /* the recorder took everything before it */
	__u64 also_unused[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/*
 * A ring buffer for each processor, which the recorder maps: a record in perf's takes 0.4 us more. What is in it
 * looks as in perf's: a sample with identifier, time and raw data. SLACK is for the verifier.
 */
#define SLACK 4096
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 4096 + SLACK);
} rings SEC(".maps");

#define PERF_RECORD_SAMPLE 9
#define FILLER 0xffff                                /* a record that only fills the end of the ring buffer */
struct sample {
	__u32 type;
	__u16 misc, size;
	__u64 identifier;
	__u64 time;
	__u32 bytes;
} __attribute__((packed, aligned(4)));

/* A sample's head is 28 bytes: records are 4 bytes more than a multiple of 8. */
struct head {
	__u16 type;
	__u8 flags, preempt_count;
	__s32 pid;
	__u32 ordinal;
};

struct opened {
	struct head head;
	__s32 fd;
	__s64 pos;
	__s64 prev_pos;
	__u64 ino;
	__u64 start;
	__u32 dev;
	__u32 flags;
	__u32 ra_pages;
	__u32 size;
	__u32 async_size;
	__s32 tgid;
	__u16 mode;
	__u8 origin;
	__u8 unused;
};
#define OPENED_BYTES 76

struct released {
	struct head head;
};
#define RELEASED_BYTES 12

struct read {
	struct head head;
	__s32 fd;
	__s64 pos;
	__s64 prev_pos;
	__u64 count;
	__s64 i_size;
	__u32 flags;
	__u32 ra_pages;
	__u16 mode;
	__u8 call;
	__u8 unused;
};
#define READ_BYTES 60

struct decision {
	struct head head;
	__u32 dev;
	__u64 ino;
	__u64 index;
	__s64 pos;
	__u32 flags;
	__u32 ra_pages;
	__u16 mode;
	__u8 kind;
	__u8 unused;
};
#define DECISION_BYTES 52

/* An open file's inode. */
struct place {
	__u64 ino;
	__u32 dev;
};

static __always_inline struct counters *own_counters(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&counters, &cpu);
}

static __always_inline void store(void *slot, __u32 at, void *from, __u32 size)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < size; i += 4)
		*(__u32 *)(slot + at + i) = *(__u32 *)(from + i);
}

/*
 * Append a record; returns an error when there is no room. Other threads of this processor wait meanwhile; of
 * an interrupt that comes in between the record is lost.
 */
static __always_inline long emit(void *record, __u32 size)
{
	struct sample sample = { .type = PERF_RECORD_SAMPLE, .size = sizeof(sample) + size, .bytes = size };
	__u64 mask = settings.ring_mask, head, at, rest;
	__u32 cpu = bpf_get_smp_processor_id();
	struct counters *own = own_counters();
	void *ring = bpf_map_lookup_elem(&rings, &cpu);

	if (!own || !ring)
		return -1;
	if (own->busy) {
		__sync_fetch_and_add(&own->lost, 1);
		return -1;
	}
	own->busy = 1;
	barrier();
	head = own->head;
	at = head & mask;
	rest = mask + 8 - at;
	if (rest >= sample.size)
		rest = 0;
	if (head + rest + sample.size - *(volatile __u64 *)&own->tail > mask + 8) {
		__sync_fetch_and_add(&own->lost, 1);
		barrier();
		own->busy = 0;
		return -1;
	}
	if (rest) {
		*(__u32 *)(ring + at) = FILLER;
		*(__u32 *)(ring + at + 4) = rest << 16;
		at = 0;
	}
	sample.time = bpf_ktime_get_ns();
	store(ring + at, 0, &sample, sizeof(sample));
	store(ring + at, sizeof(sample), record, size);
	__sync_fetch_and_add(&own->recorded, 1);
	barrier();
	*(volatile __u64 *)&own->head = head + rest + sample.size;
	barrier();
	own->busy = 0;
	return 0;
}

/* Process ids are smaller than PIDS; the mask is for the verifier. */
static __always_inline __u64 *word_of(__u32 pid)
{
	return &listed[pid >> 6 & (PIDS / 64 - 1)];
}

static __always_inline bool is_listed(__u32 pid)
{
	return *word_of(pid) >> (pid & 63) & 1;
}

static __always_inline bool wanted(__u32 pid)
{
	return is_listed(pid) == state.only_listed;
}

/* Where the file's pages are; false unless they are in the page cache of a wanted device. */
static __always_inline bool find_place(struct file *file, struct place *place)
{
	struct address_space *mapping = file->f_mapping;
	struct inode *host;
	__u16 mode;
	__u32 i;

	if (!mapping)
		return false;
	host = mapping->host;
	mode = host->i_mode;
	if ((mode & S_IFMT) != S_IFREG && (mode & S_IFMT) != S_IFBLK)
		return false;
	place->ino = host->i_ino;
	place->dev = host->i_sb->s_dev;
	if (!settings.device_count)
		return true;
	for (i = 0; i < 16 && i < settings.device_count; i++)
		if (settings.devices[i] == place->dev)
			return true;
	return false;
}

static __always_inline void describe(struct file *file, struct place *place, struct identity *known,
				     __s32 pid, __s32 tgid, __s32 fd, __u8 origin)
{
	struct opened record = {
		.head = { .type = OPENS, .pid = pid, .ordinal = known->ordinal },
		.fd = fd,
		.ino = place->ino,
		.dev = place->dev,
		.tgid = tgid,
		.origin = origin,
	};

	struct file_ra_state *ra = RA_OF(file);

	if (state.shed >> OPENS & 1)
		return;
	record.pos = file->f_pos;
	record.prev_pos = ra->prev_pos;
	record.start = ra->start;
	record.size = ra->size;
	record.async_size = ra->async_size;
	record.ra_pages = ra->ra_pages;
	record.flags = file->f_flags;
	record.mode = file->f_mode;
	if (!emit(&record, OPENED_BYTES))
		known->described = state.epoch;
}

struct naming {
	__u32 ordinal; /* 0: there is no room for more open files */
	bool fresh;    /* it was named just now */
};

/*
 * Name an open file; returns false if it is none of those that are recorded. It is given an ordinal, and
 * described, where that was not done yet.
 */
static __always_inline bool identify(struct file *file, __s32 fd, __u8 origin, __s32 pid, __s32 tgid,
				     struct naming *name)
{
	__u64 key = (__u64)file, mapping = (__u64)file->f_mapping;
	struct identity *known = bpf_map_lookup_elem(&identities, &key);
	struct identity new = {};
	struct place place = {};

	if (known && known->mapping == mapping && known->described == state.epoch) {
		name->ordinal = known->ordinal;
		return true;
	}
	if (!find_place(file, &place))
		return false;
	if (!known || known->mapping != mapping) {
		new.ordinal = __sync_fetch_and_add(&state.last_ordinal, 1) + 1;
		new.mapping = mapping;
		/* Of two threads that meet it at once, the first to put it in names it. */
		bpf_map_update_elem(&identities, &key, &new, known ? BPF_ANY : BPF_NOEXIST);
		known = bpf_map_lookup_elem(&identities, &key);
		if (!known)
			return true;
		name->fresh = new.ordinal == known->ordinal;
	}
	if (known->described != state.epoch)
		describe(file, &place, known, pid, tgid, fd, known->described ? AGAIN : origin);
	name->ordinal = known->ordinal;
	return true;
}

static __always_inline struct file *file_of(struct task_struct *task, __u32 fd)
{
	struct fdtable *table = task->files->fdt;
	struct file *file = NULL;

	if (fd < table->max_fds)
		bpf_probe_read_kernel(&file, sizeof(file), table->fd + fd);
	return file;
}

static __always_inline __u64 argument(struct pt_regs *regs, __u8 which)
{
	switch (which) {
	case 0:
		return regs->di;
	case 1:
		return regs->si;
	case 2:
		return regs->dx;
	case 3:
		return regs->r10;
	case 4:
		return regs->r8;
	case 5:
		return regs->r9;
	}
	return -1;
}

/* Bytes of a vector; of one of many pieces, or one that cannot be looked at, they are not known. */
static __always_inline __u64 bytes_of(__u64 vector, __u64 pieces)
{
	__u64 piece[2], i, sum = 0;

	if (pieces > PIECES)
		return -1;
	for (i = 0; i < PIECES; i++) {
		if (i >= pieces)
			break;
		if (bpf_probe_read_user(piece, sizeof(piece), (void *)(vector + 16 * i)))
			return -1;
		sum += piece[1];
	}
	return sum;
}

static __always_inline __u64 asked(struct pt_regs *regs, __u8 which)
{
	if (which == NOT_THERE)
		return -1;
	if (!(which & VECTOR))
		return argument(regs, which);
	return bytes_of(argument(regs, (which & 7) - 1), argument(regs, which & 7));
}

static __always_inline __s64 position(struct pt_regs *regs, __u8 which, struct file *file)
{
	__s64 pos = -1;
	__u64 there;

	if (which != NOT_THERE) {
		there = argument(regs, which & 7);
		if (which & POINTER) {
			if (there) {
				bpf_probe_read_user(&pos, sizeof(pos), (void *)there);
				return pos;
			}
		} else if ((__s64)there != -1) {
			return there;
		}
	}
	return file->f_pos;
}

/* The file behind the descriptor of a read, and its ordinal; NULL if there is none that is told. */
static __always_inline struct file *file_behind(struct task_struct *task, struct read *record, __u64 who)
{
	struct naming name = {};
	struct file *file;
	__u64 key;

	key = (__u64)file_of(task, record->fd);
	if (!key)
		return 0;
	file = AS_FILE((void *)key);
	if (!identify(file, record->fd, AT_USE, (__u32)who, who >> 32, &name))
		return 0;
	record->head.ordinal = name.ordinal;
	if (name.fresh && (__u64)file_of(task, record->fd) != key) {
		/* Another thread closed it meanwhile: it may have been freed before it was named. */
		bpf_map_delete_elem(&identities, &key);
		record->head.ordinal = 0;
	}
	return file;
}

static __always_inline void emit_read(struct read *record, struct file *file, __u8 call)
{
	struct file_ra_state *ra = RA_OF(file);

	record->prev_pos = ra->prev_pos;
	record->i_size = file->f_mapping->host->i_size;
	record->ra_pages = ra->ra_pages;
	record->flags = file->f_flags;
	record->mode = file->f_mode;
	record->call = call;
	emit(record, READ_BYTES);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(read_call, struct pt_regs *regs, long id)
{
	struct read record = { .head = { .type = READS } };
	const volatile struct call *call;
	struct task_struct *task;
	struct file *file;
	__u64 who;

	if (!state.recording || id < 0 || id >= 512)
		return 0;
	call = &settings.calls[id];
	if (!call->number)
		return 0;
	who = bpf_get_current_pid_tgid();
	if (!wanted((__u32)who))
		return 0;
	task = bpf_get_current_task_btf();
	if (task->thread_info.status & TS_COMPAT)
		return 0;
	record.head.pid = (__u32)who;
	record.fd = argument(regs, call->fd);
	file = file_behind(task, &record, who);
	if (!file || state.shed >> READS & 1)
		return 0;
	record.pos = position(regs, call->pos, file);
	record.count = asked(regs, call->count);
	emit_read(&record, file, call->number);
	return 0;
}

static __always_inline bool ring_reads(__u8 opcode)
{
	return opcode == IORING_OP_READV || opcode == IORING_OP_READ_FIXED || opcode == IORING_OP_READ ||
	       opcode == IORING_OP_READV_FIXED;
}

/*
 * A read that is asked for through io_uring, as it is submitted. It has no file yet: its descriptor is looked
 * up as the kernel will in a moment. A request begins with its io_rw, that with its kiocb.
 */
SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(ring_asked, void *request)
{
	struct io_kiocb *req = bpf_rdonly_cast(request, bpf_core_type_id_kernel(struct io_kiocb));
	struct io_rw *rw = bpf_rdonly_cast(request, bpf_core_type_id_kernel(struct io_rw));
	struct read record = { .head = { .type = READS } };
	__u64 who = bpf_get_current_pid_tgid();
	struct file *file;

	if (!state.recording || !wanted((__u32)who) || !ring_reads(req->opcode))
		return 0;
	if (req->flags & (IOSQE_FIXED_FILE | IOSQE_ASYNC))
		return 0;
	record.fd = req->cqe.fd;
	file = file_behind(bpf_get_current_task_btf(), &record, who);
	if (!file || state.shed >> READS & 1)
		return 0;
	record.head.pid = (__u32)who;
	record.pos = rw->kiocb.ki_pos == -1 ? file->f_pos : rw->kiocb.ki_pos;
	if (req->opcode == IORING_OP_READV || req->opcode == IORING_OP_READV_FIXED)
		record.count = bytes_of(rw->addr, rw->len);
	else
		record.count = rw->len;
	emit_read(&record, file, RING_CALL);
	return 0;
}

/* The same of a file that has no descriptor, or of a read by a worker: when it is complete. */
SEC("tp_btf/io_uring_complete")
int BPF_PROG(ring_read, void *ring, void *request, struct io_uring_cqe *cqe)
{
	struct io_kiocb *req = bpf_rdonly_cast(request, bpf_core_type_id_kernel(struct io_kiocb));
	struct kiocb *kiocb = bpf_rdonly_cast(request, bpf_core_type_id_kernel(struct kiocb));
	struct read record = { .head = { .type = READS }, .fd = -1 };
	__u64 who = bpf_get_current_pid_tgid();
	struct naming name = {};
	struct file *file;
	__s32 moved;
	__u8 opcode;

	if (!state.recording || !request || !wanted((__u32)who))
		return 0;
	opcode = req->opcode;
	if (!ring_reads(opcode) || !(req->flags & (IOSQE_FIXED_FILE | IOSQE_ASYNC)))
		return 0;
	moved = cqe->res;
	file = AS_FILE(req->file);
	if (moved < 0 || !file || !identify(file, -1, AT_USE, (__u32)who, who >> 32, &name))
		return 0;
	if (state.shed >> READS & 1)
		return 0;
	record.head.pid = (__u32)who;
	record.head.ordinal = name.ordinal;
	record.pos = kiocb->ki_pos - moved;
	record.count = moved;
	emit_read(&record, file, RING_CALL);
	return 0;
}

static __always_inline int decide(struct inode *inode, unsigned long index, struct file_ra_state *ra,
				  __u8 kind)
{
	struct decision record = { .head = { .type = DECISIONS }, .index = index, .kind = kind };
	struct file *file = AS_FILE((void *)ra - RA_OFFSET);
	__u64 who = bpf_get_current_pid_tgid();
	struct naming name = {};

	if (!state.recording || !wanted((__u32)who))
		return 0;
	record.head.pid = (__u32)who;
	record.ino = inode->i_ino;
	record.dev = inode->i_sb->s_dev;
	/* Not every readahead state is part of an open file. */
	if ((__u64)file->f_mapping->host == (__u64)inode) {
		if (!identify(file, -1, AT_USE, (__u32)who, who >> 32, &name))
			return 0;
		record.head.ordinal = name.ordinal;
		record.flags = file->f_flags;
		record.mode = file->f_mode;
		record.pos = file->f_pos;
	}
	if (state.shed >> DECISIONS & 1)
		return 0;
	record.ra_pages = ra->ra_pages;
	emit(&record, DECISION_BYTES);
	return 0;
}

SEC("tp_btf/page_cache_sync_ra")
int BPF_PROG(sync_decision, struct inode *inode, unsigned long index, struct file_ra_state *ra)
{
	return decide(inode, index, ra, SYNC);
}

SEC("tp_btf/page_cache_async_ra")
int BPF_PROG(async_decision, struct inode *inode, unsigned long index, struct file_ra_state *ra)
{
	return decide(inode, index, ra, ASYNC);
}

SEC("tp_btf/page_cache_ra_order")
int BPF_PROG(order_decision, struct inode *inode, unsigned long index, struct file_ra_state *ra)
{
	return decide(inode, index, ra, ORDER);
}

/* An open file's memory is given back: its address may be another one's from now on. */
SEC("tp_btf/kmem_cache_free")
int BPF_PROG(file_freed, unsigned long site, const void *object, const struct kmem_cache *cache)
{
	struct released record = { .head = { .type = RELEASES } };
	__u32 size = bpf_core_type_size(struct file);
	__u64 key = (__u64)object;
	struct identity *known;
	char text[8] = {};

	if ((__u64)cache != state.caches[0] && (__u64)cache != state.caches[1]) {
		if (cache->object_size < size || cache->object_size > size + 64)
			return 0;
		bpf_probe_read_kernel_str(text, sizeof(text), cache->name);
		if (text[0] == 'f' && text[1] == 'i' && text[2] == 'l' && text[3] == 'p' && !text[4])
			state.caches[0] = (__u64)cache;
		else if (text[0] == 'b' && text[1] == 'f' && text[2] == 'i' && text[3] == 'l' && text[4] == 'p')
			state.caches[1] = (__u64)cache;
		else
			return 0;
	}
	known = bpf_map_lookup_elem(&identities, &key);
	if (!known)
		return 0;
	record.head.ordinal = known->ordinal;
	bpf_map_delete_elem(&identities, &key);
	if (state.recording && !(state.shed >> RELEASES & 1)) {
		record.head.pid = (__u32)bpf_get_current_pid_tgid();
		emit(&record, RELEASED_BYTES);
	}
	return 0;
}

SEC("tp_btf/task_newtask")
int BPF_PROG(task_created, struct task_struct *task)
{
	if (state.following && is_listed((__u32)bpf_get_current_pid_tgid()))
		__sync_fetch_and_or(word_of(task->pid), 1ULL << (task->pid & 63));
	return 0;
}

SEC("tp_btf/sched_process_free")
int BPF_PROG(task_gone, struct task_struct *task)
{
	if (state.following && is_listed(task->pid))
		__sync_fetch_and_and(word_of(task->pid), ~(1ULL << (task->pid & 63)));
	return 0;
}

/* Files that are open when recording begins. */
SEC("iter/task_file")
int found_open(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct naming name = {};

	if (task && file && wanted(task->pid))
		identify(AS_FILE(file), ctx->fd, AT_START, task->pid, task->tgid, &name);
	return 0;
}
