// The vector table (DDI 0487, D1.3.1), exception entry and return.
//
// Entry builds a TrapFrame (exception.rs) on the kernel stack: x0-x30, SP_EL0, ELR, SPSR, ESR, FAR, and a
// frame record {x29, ELR}. x29 points to the record, so that a backtrace continues into the interrupted code.

.equ FRAME, 304
.equ FRAME_SP_EL0, 248
.equ FRAME_ELR, 256
.equ FRAME_ESR, 272
.equ FRAME_RECORD, 288
.equ CPU_EMERGENCY_STACK, 8                   // CpuLocal (cpu.rs)
.equ CPU_OVERFLOWED, 16

.equ FROM_KERNEL, 0                           // Origin (exception.rs)
.equ FROM_USER, 1
.equ STACK_OVERFLOW, 16                       // Vector::StackOverflow

// Saves x0-x30 and the exception registers in the frame at sp. Afterwards x9 = ELR.
.macro save
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x10, sp_el0
    stp     x30, x10, [sp, #240]
    mrs     x9, elr_el1
    mrs     x10, spsr_el1
    stp     x9, x10, [sp, #FRAME_ELR]
    mrs     x11, esr_el1
    mrs     x12, far_el1
    stp     x11, x12, [sp, #FRAME_ESR]
.endm

// Writes the frame record: linked to the interrupted kernel code, or the end of the chain for a program.
.macro record from
    .if \from == FROM_KERNEL
    stp     x29, x9, [sp, #FRAME_RECORD]
    .else
    stp     xzr, xzr, [sp, #FRAME_RECORD]
    .endif
    add     x29, sp, #FRAME_RECORD
.endm

.macro vector target
    .balign 128
    b       \target
.endm

.section .vectors, "ax"
.balign 2048
.global vectors
vectors:
    vector  bad_0                             // from EL1 with SP_EL0, which is never selected
    vector  bad_1
    vector  bad_2
    vector  bad_3
    vector  sync_from_kernel                  // from EL1 with SP_EL1
    vector  irq_from_kernel
    vector  bad_6
    vector  bad_7
    vector  sync_from_user                    // from EL0, AArch64
    vector  irq_from_user
    vector  bad_10
    vector  bad_11
    vector  bad_12                            // from EL0, AArch32
    vector  bad_13
    vector  bad_14
    vector  bad_15

.text

.macro handler name, from, function
\name:
    sub     sp, sp, #FRAME
    save
    record  \from
    mov     x0, sp
    mov     x1, #\from
    bl      \function
\name\()_return:
    b       exception_return
.endm

.global irq_from_kernel_return                // in a backtrace: the frames after it are interrupted code
handler irq_from_kernel, FROM_KERNEL, handle_irq
handler irq_from_user, FROM_USER, handle_irq
handler sync_from_user, FROM_USER, handle_sync

// After a stack overflow, SP points into the guard page, and a push here would fault recursively. So
// translate the address of the frame for a write first. TPIDRRO_EL0, otherwise unused, holds x0 meanwhile.
// PAR_EL1 is not saved: its users mask interrupts and cannot fault.
sync_from_kernel:
    msr     tpidrro_el0, x0
    mov     x0, sp
    tst     x0, #15                           // a misaligned SP would fault too
    b.ne    stack_overflow
    sub     x0, x0, #FRAME
    at      s1e1w, x0
    isb
    mrs     x0, par_el1
    tbnz    x0, #0, stack_overflow
    mrs     x0, tpidrro_el0
    msr     tpidrro_el0, xzr
    sub     sp, sp, #FRAME
    save
    record  FROM_KERNEL
    mov     x0, sp
    mov     x1, #FROM_KERNEL
    bl      handle_sync
    b       exception_return

// Does not return, so SP_EL0 can be overwritten: the frame has the overflowed stack pointer in its place.
stack_overflow:
    mov     x0, sp
    msr     sp_el0, x0
    mrs     x0, tpidr_el1
    ldr     x0, [x0, #CPU_EMERGENCY_STACK]
    sub     x0, x0, #FRAME
    mov     sp, x0
    mrs     x0, tpidrro_el0
    msr     tpidrro_el0, xzr
    save
    record  FROM_KERNEL
    mrs     x2, tpidr_el1
    ldr     x1, [x2, #CPU_OVERFLOWED]
    cbnz    x1, .                             // emergency stack overflow: no stack left for a report
    mov     x1, #1
    str     x1, [x2, #CPU_OVERFLOWED]
    mov     x0, sp
    mov     x1, #STACK_OVERFLOW
    bl      handle_unexpected
    b       .

.macro bad number
bad_\number:
    sub     sp, sp, #FRAME
    save
    .if \number < 8
    record  FROM_KERNEL
    .else
    record  FROM_USER
    .endif
    mov     x0, sp
    mov     x1, #\number
    bl      handle_unexpected
    b       .
.endm

.irp number, 0, 1, 2, 3, 6, 7, 10, 11, 12, 13, 14, 15
bad     \number
.endr

// Restores the frame at sp and returns from the exception.
exception_return:
    ldp     x9, x10, [sp, #FRAME_ELR]
    msr     elr_el1, x9
    msr     spsr_el1, x10
    ldr     x9, [sp, #FRAME_SP_EL0]
    msr     sp_el0, x9
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    add     sp, sp, #FRAME
    eret
    dsb     nsh                               // stops straight-line speculation past ERET
    isb
