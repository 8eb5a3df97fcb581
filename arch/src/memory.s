// Copying, filling and zeroing. Normal memory only: accesses need not be aligned, and DC ZVA takes an
// Alignment fault on Device memory.

.arch_extension fp
.arch_extension simd
.arch_extension mops

.text

// x0 = to, x1 = from, x2 = bytes; returns x0. The ranges must not overlap.
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
2:  tbz     x2, #5, 3f                        // bits 5:0 are the bytes left
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

// x0 = start, x1 = bytes. FEAT_MOPS.
.global zero_by_memory_set
.type zero_by_memory_set, %function
zero_by_memory_set:
    setp    [x0]!, x1!, xzr
    setm    [x0]!, x1!, xzr
    sete    [x0]!, x1!, xzr
    ret
.size zero_by_memory_set, . - zero_by_memory_set

// x0 = to, x1 = from, x2 = bytes. FEAT_MOPS.
.global copy_by_memory_copy
.type copy_by_memory_copy, %function
copy_by_memory_copy:
    cpyfp   [x0]!, [x1]!, x2!
    cpyfm   [x0]!, [x1]!, x2!
    cpyfe   [x0]!, [x1]!, x2!
    ret
.size copy_by_memory_copy, . - copy_by_memory_copy

// x0 = start, x1 = bytes, x2 = 0 to resume at SETM, 1 at SETE. Converts the state after SETP to the option
// that this CPU does not implement (C = 0: option A, C = 1: option B). The CPU takes the Memory Copy and
// Memory Set exception, whose handler returns to the second SETP.
.global zero_by_memory_set_other_option
.type zero_by_memory_set_other_option, %function
zero_by_memory_set_other_option:
    setp    [x0]!, x1!, xzr
    add     x0, x0, x1                        // A: end, minus the rest; B: next address, the rest
    neg     x1, x1
    mov     x3, #(1 << 29)                    // NZCV with only C set
    csel    x3, xzr, x3, cs
    msr     nzcv, x3
    tbnz    x2, #0, 3f
    b       2f
    setp    [x0]!, x1!, xzr
2:  setm    [x0]!, x1!, xzr
3:  sete    [x0]!, x1!, xzr
    ret
.size zero_by_memory_set_other_option, . - zero_by_memory_set_other_option

// x0 = start, x1 = bytes, x2 = bytes of a DC ZVA block; start and bytes are multiples of it.
.global zero_by_blocks
.type zero_by_blocks, %function
zero_by_blocks:
    lsl     x3, x2, #5
    subs    x1, x1, x3
    b.lo    2f
1:
.rept 32
    dc      zva, x0
    add     x0, x0, x2
.endr
    subs    x1, x1, x3
    b.hs    1b
2:  adds    x1, x1, x3
    b.eq    4f
3:  dc      zva, x0
    add     x0, x0, x2
    subs    x1, x1, x2
    b.ne    3b
4:  ret
.size zero_by_blocks, . - zero_by_blocks

// x0 = start, x1 = end, both multiples of 64. The SIMD registers belong to the user thread and are restored.
.global zero_by_stores
.type zero_by_stores, %function
zero_by_stores:
    sub     sp, sp, #64
    st1     {v0.2d - v3.2d}, [sp]
    movi    v0.2d, #0
    movi    v1.2d, #0
    movi    v2.2d, #0
    movi    v3.2d, #0
    b       2f
1:
.rept 16
    st1     {v0.2d - v3.2d}, [x0], #64
.endr
2:  sub     x2, x1, x0
    cmp     x2, #1024
    b.hs    1b
    b       4f
3:  st1     {v0.2d - v3.2d}, [x0], #64
4:  cmp     x0, x1
    b.lo    3b
    ld1     {v0.2d - v3.2d}, [sp], #64
    ret
.size zero_by_stores, . - zero_by_stores
