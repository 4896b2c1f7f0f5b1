/*
 * The bare guest's first instructions: multiboot header, stack, interrupt gates. The rest is C.
 *
 * QEMU (or any multiboot loader) enters here in 32-bit protected mode with flat segments, interrupts off, and in
 * %ebx the address of the multiboot information, where the command line is.
 */
	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.section .text
	.globl _start
_start:
	cli
	cld
	movl $stack_top, %esp
	lgdt gdt_pointer            /* the loader's table may lie in memory that is ours now */
	ljmp $8, $1f
1:	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	pushl %ebx
	call bare_main
2:	cli
	hlt
	jmp 2b

	/* Each gate pushes its number; an unexpected exception ends the guest by name (bare.c). */
	.macro gate number
	.globl gate_\number
gate_\number:
	pushl $\number
	jmp interrupted
	.endm
	gate 0x20
	gate 0x24

	.globl gate_other
gate_other:
	pushl $0xff
interrupted:
	pushal
	pushl 32(%esp)              /* the number, as an argument */
	cld
	call interrupt
	addl $4, %esp
	popal
	addl $4, %esp
	iret

	.section .rodata
	.balign 8
gdt:	.quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
	.word 23
	.long gdt

	.section .bss
	.balign 16
	.skip 16384
stack_top:

	.section .note.GNU-stack, "", @progbits
