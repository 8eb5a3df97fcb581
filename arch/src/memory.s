// Copying and filling memory: what the compiler calls by name, and zeroing whole frames. Normal memory alone, since
// accesses need not be aligned.

.arch_extension fp
.arch_extension simd

.text

// x0 = to, x1 = from, x2 = bytes; returns x0. They do not overlap.
.global memcpy
.type memcpy, %function
memcpy:
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  ldp     x4, x5, [x1]
    ldp     x6, x7, [x1, #16]
    ldp     x8, x9, [x1, #32]
    ldp     x10, x11, [x1, #48]
    add     x1, x1, #64
    stp     x4, x5, [x3]
    stp     x6, x7, [x3, #16]
    stp     x8, x9, [x3, #32]
    stp     x10, x11, [x3, #48]
    add     x3, x3, #64
    subs    x2, x2, #64
    b.hs    1b
2:  tbz     x2, #5, 3f                        // the low six bits count what is left
    ldp     x4, x5, [x1], #16
    ldp     x6, x7, [x1], #16
    stp     x4, x5, [x3], #16
    stp     x6, x7, [x3], #16
3:  tbz     x2, #4, 4f
    ldp     x4, x5, [x1], #16
    stp     x4, x5, [x3], #16
4:  tbz     x2, #3, 5f
    ldr     x4, [x1], #8
    str     x4, [x3], #8
5:  tst     x2, #7
    b.eq    8f
    tbz     x2, #2, 6f
    ldr     w4, [x1], #4
    str     w4, [x3], #4
6:  tbz     x2, #1, 7f
    ldrh    w4, [x1], #2
    strh    w4, [x3], #2
7:  tbz     x2, #0, 8f
    ldrb    w4, [x1]
    strb    w4, [x3]
8:  ret
.size memcpy, . - memcpy

// x0 = to, w1 = byte, x2 = bytes; returns x0.
.global memset
.type memset, %function
memset:
    and     x1, x1, #0xff
    mov     x4, #0x0101010101010101
    mul     x1, x1, x4
    mov     x3, x0
    subs    x2, x2, #64
    b.lo    2f
1:  stp     x1, x1, [x3]
    stp     x1, x1, [x3, #16]
    stp     x1, x1, [x3, #32]
    stp     x1, x1, [x3, #48]
    add     x3, x3, #64
    subs    x2, x2, #64
    b.hs    1b
2:  tbz     x2, #5, 3f
    stp     x1, x1, [x3], #16
    stp     x1, x1, [x3], #16
3:  tbz     x2, #4, 4f
    stp     x1, x1, [x3], #16
4:  tbz     x2, #3, 5f
    str     x1, [x3], #8
5:  tst     x2, #7
    b.eq    8f
    tbz     x2, #2, 6f
    str     w1, [x3], #4
6:  tbz     x2, #1, 7f
    strh    w1, [x3], #2
7:  tbz     x2, #0, 8f
    strb    w1, [x3]
8:  ret
.size memset, . - memset

// x0 = to, x1 = end; whole lines of 64 bytes. A store of four registers moves its address on by itself, which DC ZVA does
// not: half the instructions. The registers belong to the program and are put back.
.global zero_lines
.type zero_lines, %function
zero_lines:
    sub     sp, sp, #64
    st1     {v0.2d - v3.2d}, [sp]
    movi    v0.2d, #0
    movi    v1.2d, #0
    movi    v2.2d, #0
    movi    v3.2d, #0
    sub     x2, x1, #4096
    b       2f
1:
.rept 64
    st1     {v0.2d - v3.2d}, [x0], #64
.endr
2:  cmp     x0, x2
    b.ls    1b
    b       4f
3:  st1     {v0.2d - v3.2d}, [x0], #64
4:  cmp     x0, x1
    b.lo    3b
    ld1     {v0.2d - v3.2d}, [sp], #64
    ret
.size zero_lines, . - zero_lines
