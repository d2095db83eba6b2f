// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The built-in proxy `readahead`: how many synchronous and asynchronous readahead requests there were, how large
 * the windows became, and the same for each file. Everything is summed up in maps: nothing is sent per event.
 *
 * hs_proxy, hs_names and hs_values are the maps of a proxy over eBPF (docs/proxy.md); hs_files is this one's own.
 */
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
	struct super_block *i_sb;
	unsigned long i_ino;
};
struct file_ra_state {
	unsigned int size;
	unsigned int async_size;
	unsigned int ra_pages;
	unsigned short order;
};
#pragma clang attribute pop

/* Positions in hs_values; capture/proxy/readahead.py names them in the same order. */
enum { SYNC, ASYNC, WINDOWS, SYNC_PAGES, WINDOW_PAGES, ASYNC_PAGES, FILES_NEW, WINDOW_LOG2 };
#define LOG2_BUCKETS 16
#define VALUES (WINDOW_LOG2 + LOG2_BUCKETS)

struct proxy {
	__u32 schema, mode, dataset_type, dataset_state;
	__u64 dataset_offset, dataset_size;
	char id[32], subsystem[32];
};
struct entry_name {
	__u32 kind, reserved;
	char name[56];
};
struct file_key {
	__u64 ino;
	__u32 dev, reserved;
};
struct file_value {
	__u64 last_ns, sync, async, windows;
	__u32 size, async_size, ra_pages, order;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct proxy);
} hs_proxy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VALUES);
	__type(key, __u32);
	__type(value, struct entry_name);
} hs_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VALUES);
	__type(key, __u32);
	__type(value, __u64);
} hs_values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct file_key);
	__type(value, struct file_value);
} hs_files SEC(".maps");

static __always_inline void add(__u32 position, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&hs_values, &position);

	if (value)
		*value += amount;
}

static __always_inline struct file_value *find(struct inode *inode)
{
	struct file_key key = { .ino = inode->i_ino, .dev = inode->i_sb->s_dev };
	struct file_value fresh = {};
	struct file_value *known = bpf_map_lookup_elem(&hs_files, &key);

	if (known)
		return known;
	if (!bpf_map_update_elem(&hs_files, &key, &fresh, BPF_NOEXIST))
		add(FILES_NEW, 1);
	return bpf_map_lookup_elem(&hs_files, &key);
}

SEC("tp_btf/page_cache_sync_ra")
int BPF_PROG(sync_ra, struct inode *inode, unsigned long index, struct file_ra_state *ra, unsigned long pages)
{
	struct file_value *file = find(inode);

	add(SYNC, 1);
	add(SYNC_PAGES, pages);
	if (file) {
		__sync_fetch_and_add(&file->sync, 1);
		file->last_ns = bpf_ktime_get_ns();
		file->ra_pages = ra->ra_pages;
	}
	return 0;
}

SEC("tp_btf/page_cache_async_ra")
int BPF_PROG(async_ra, struct inode *inode, unsigned long index, struct file_ra_state *ra, unsigned long pages)
{
	struct file_value *file = find(inode);

	add(ASYNC, 1);
	if (file) {
		__sync_fetch_and_add(&file->async, 1);
		file->last_ns = bpf_ktime_get_ns();
		file->ra_pages = ra->ra_pages;
	}
	return 0;
}

SEC("tp_btf/page_cache_ra_order")
int BPF_PROG(ra_order, struct inode *inode, unsigned long index, struct file_ra_state *ra)
{
	struct file_value *file = find(inode);
	__u32 size = ra->size, bucket = 0, rest = size;

	add(WINDOWS, 1);
	add(WINDOW_PAGES, size);
	add(ASYNC_PAGES, ra->async_size);
	for (int i = 0; i < LOG2_BUCKETS - 1 && rest > 1; i++, rest >>= 1)
		bucket++;
	add(WINDOW_LOG2 + bucket, 1);
	if (file) {
		__sync_fetch_and_add(&file->windows, 1);
		file->last_ns = bpf_ktime_get_ns();
		file->size = size;
		file->async_size = ra->async_size;
		file->ra_pages = ra->ra_pages;
		if (bpf_core_field_exists(ra->order))
			file->order = ra->order;
	}
	return 0;
}
