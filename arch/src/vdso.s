// The code of the vDSO, which programs execute. Position-independent; the kernel copies it.
//
// The time is computed as in `timer.rs`: both give the same nanoseconds for the same counter value.

    .section .rodata.vdso, "a"
    .balign 16
    .global vdso_start
    .global vdso_end
vdso_start:
    // The starts of the functions and of the data, in bytes.
    .word   vdso_clock_gettime - vdso_start
    .word   vdso_gettimeofday - vdso_start
    .word   vdso_clock_getres - vdso_start
    .word   vdso_rt_sigreturn - vdso_start
    .word   vdso_data - vdso_start

// Sets x11 to the seconds and x12 to the nanoseconds of the time that is x13 seconds and x14 nanoseconds
// after the start of the counter; x15 to the nanoseconds per second. Clobbers x9, x10.
.macro read_counter
    isb                                       // no early, speculative read of the counter
    mrs     x9, cntvct_el0
    ldr     x10, vdso_data
    mov     w15, #(1000000000 & 0xffff)
    movk    w15, #(1000000000 >> 16), lsl #16
    udiv    x11, x9, x10
    msub    x12, x11, x10, x9
    mul     x12, x12, x15
    udiv    x12, x12, x10
    add     x11, x11, x13
    add     x12, x12, x14
    sub     x9, x12, x15
    cmp     x12, x15
    csel    x12, x9, x12, hs
    cinc    x11, x11, hs
.endm

    .balign 16
vdso_clock_gettime:
    cmp     w0, #11
    b.hi    3f
    mov     w9, #1
    lsl     w9, w9, w0
    ldr     x13, vdso_data + 8
    ldr     x14, vdso_data + 16
    mov     w10, #(1 << 0 | 1 << 5 | 1 << 11) // CLOCK_REALTIME, _REALTIME_COARSE, CLOCK_TAI
    tst     w9, w10
    b.ne    1f
    mov     x13, xzr
    mov     x14, xzr
    mov     w10, #(1 << 1 | 1 << 4 | 1 << 6 | 1 << 7) // _MONOTONIC, _RAW, _COARSE, CLOCK_BOOTTIME
    tst     w9, w10
    b.eq    3f
1:  read_counter
    stp     x11, x12, [x1]
    mov     w0, wzr
    ret
3:  mov     x8, #113
    svc     #0
    ret

    .balign 16
vdso_gettimeofday:
    cbnz    x1, 2f
    cbz     x0, 1f
    ldr     x13, vdso_data + 8
    ldr     x14, vdso_data + 16
    read_counter
    mov     w9, #1000
    udiv    x12, x12, x9
    stp     x11, x12, [x0]
1:  mov     w0, wzr
    ret
2:  mov     x8, #169
    svc     #0
    ret

    .balign 16
vdso_clock_getres:
    mov     x8, #114
    svc     #0
    ret

    // Debuggers and unwinders recognize the frame of a signal by these two instructions.
    .balign 16
vdso_rt_sigreturn:
    mov     x8, #139
    svc     #0

    .balign 16
    // The frequency of the counter, and the real time at its start in seconds and nanoseconds.
vdso_data:
    .quad   0, 0, 0
vdso_end:
