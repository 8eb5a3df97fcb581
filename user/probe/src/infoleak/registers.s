// Loads and stores all registers from and to a `Registers` structure (registers.rs).

.equ X, 0
.equ SP_EL0, 248
.equ V, 256
.equ FPCR, 768
.equ FPSR, 776
.equ TPIDR, 784
.equ TPIDRRO, 792

// Stack frame: callee-saved registers x19 to x30 and d8 to d15 (AAPCS64), and x1.
.equ KEPT, 176
.equ KEPT_X1, 160

// Applies `op` to x2 to x30, with x0 = Registers.
.macro each_x op
.irp n, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
    \op     x\n, [x0, #X + 8 * \n]
.endr
.endm

// Applies `op` to all vector registers, with x0 = Registers.
.macro each_q op
.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    \op     q\n, [x0, #V + 16 * \n]
.endr
.endm

// Stores or loads a system register, with x0 = Registers. Clobbers x1.
.macro store_special name, at
    mrs     x1, \name
    str     x1, [x0, #\at]
.endm
.macro load_special name, at
    ldr     x1, [x0, #\at]
    msr     \name, x1
.endm

// Stores all registers, with x0 = Registers and the original x0 and x1 on the stack. Pops them; clobbers x1
// to x3.
.macro store_all
    each_x  str
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0, #X]
    mov     x1, sp
    str     x1, [x0, #SP_EL0]
    each_q  str
    store_special fpcr, FPCR
    store_special fpsr, FPSR
    store_special tpidr_el0, TPIDR
    store_special tpidrro_el0, TPIDRRO
.endm

// Loads all registers except SP and TPIDR, with x0 = Registers.
.macro load_all
    each_q  ldr
    load_special fpcr, FPCR
    load_special fpsr, FPSR
    each_x  ldr
    ldp     x0, x1, [x0, #X]
.endm

// Saves or restores the callee-saved registers; `op` is stp or ldp.
.macro each_kept op
    \op     x19, x20, [sp, #16]
    \op     x21, x22, [sp, #32]
    \op     x23, x24, [sp, #48]
    \op     x25, x26, [sp, #64]
    \op     x27, x28, [sp, #80]
    \op     d8, d9, [sp, #96]
    \op     d10, d11, [sp, #112]
    \op     d12, d13, [sp, #128]
    \op     d14, d15, [sp, #144]
.endm

// The entry point: stores the initial registers and continues at `_start`.
.global probe_first_instruction
probe_first_instruction:
    stp     x0, x1, [sp, #-16]!
    adrp    x0, PROBE_FIRST
    add     x0, x0, :lo12:PROBE_FIRST
    store_all
    each_x  ldr
    ldp     x0, x1, [x0, #X]
    b       _start

// Performs a system call: x0 = Registers before it, x1 = Registers after it.
.global probe_call_with
probe_call_with:
    stp     x29, x30, [sp, #-KEPT]!
    each_kept stp
    str     x1, [sp, #KEPT_X1]
    load_all
    svc     #0
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #16 + KEPT_X1]
    store_all
    msr     fpcr, xzr
    msr     fpsr, xzr
    each_kept ldp
    ldp     x29, x30, [sp], #KEPT
    ret
