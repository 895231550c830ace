// SPDX-License-Identifier: GPL-2.0-only
/*
 * The static libelf of elfutils 0.192 (Debian 13, Ubuntu 25.04) calls two
 * functions that it does not contain: sourceware bug 32293. They prepare and
 * empty a tree of raw chunks. Only elf_getdata_rawchunk() adds to that tree.
 * libbpf never calls it, and whoever did would not link, because what adds is
 * missing as well. So the tree is always empty, and there is nothing to do.
 */
void eu_search_tree_init(void *tree);
void eu_search_tree_fini(void *tree, void (*free_node)(void *));

void eu_search_tree_init(void *tree)
{
	(void)tree;
}

void eu_search_tree_fini(void *tree, void (*free_node)(void *))
{
	(void)tree;
	(void)free_node;
}
