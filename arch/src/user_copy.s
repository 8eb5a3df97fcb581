// Copies between kernel and user memory by LDTR and STTR: accesses with EL0 permissions, independent of
// PSTATE.PAN; and a compare-and-exchange.
//
// Each of these instructions is covered by an entry of .fixups: first, end, resume address. The addresses are
// absolute, since the image runs at its link address. After a fault in a wide step the copy continues by
// bytes from the same position, so that the number of bytes not copied is exact.

.macro fixup first, end, target
    .pushsection .fixups, "a"
    .balign 8
    .quad   \first, \end, \target
    .popsection
.endm

.text

// x0 = to (kernel), x1 = from (user), x2 = bytes. Returns the bytes not copied.
.global user_copy_from
user_copy_from:
    cmp     x2, #64
    b.lo    2f
1:  ldtr    x3, [x1]
    ldtr    x4, [x1, #8]
    ldtr    x5, [x1, #16]
    ldtr    x6, [x1, #24]
    ldtr    x7, [x1, #32]
    ldtr    x8, [x1, #40]
    ldtr    x9, [x1, #48]
    ldtr    x10, [x1, #56]
11: stp     x3, x4, [x0], #16
    stp     x5, x6, [x0], #16
    stp     x7, x8, [x0], #16
    stp     x9, x10, [x0], #16
    add     x1, x1, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hs    1b
2:  cmp     x2, #8
    b.lo    4f
3:  ldtr    x3, [x1]
33: str     x3, [x0], #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       2b
4:  cbz     x2, 6f
5:  ldtrb   w3, [x1]
55: strb    w3, [x0], #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       4b
6:  mov     x0, x2
    ret
    fixup   1b, 11b, 4b
    fixup   3b, 33b, 4b
    fixup   5b, 55b, 6b

// x0 = to (user), x1 = from (kernel), x2 = bytes. Returns the bytes not copied.
.global user_copy_to
user_copy_to:
    cmp     x2, #64
    b.lo    2f
0:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
1:  sttr    x3, [x0]
    sttr    x4, [x0, #8]
    sttr    x5, [x0, #16]
    sttr    x6, [x0, #24]
    sttr    x7, [x0, #32]
    sttr    x8, [x0, #40]
    sttr    x9, [x0, #48]
    sttr    x10, [x0, #56]
11: add     x0, x0, #64
    add     x1, x1, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hs    0b
2:  cmp     x2, #8
    b.lo    4f
    ldr     x3, [x1]
3:  sttr    x3, [x0]
33: add     x0, x0, #8
    add     x1, x1, #8
    sub     x2, x2, #8
    b       2b
4:  cbz     x2, 6f
    ldrb    w3, [x1]
5:  sttrb   w3, [x0]
55: add     x0, x0, #1
    add     x1, x1, #1
    sub     x2, x2, #1
    b       4b
6:  mov     x0, x2
    ret
    fixup   1b, 11b, 4b
    fixup   3b, 33b, 4b
    fixup   5b, 55b, 6b

// x0 = from (user). Returns the word, -1 on a fault.
.global user_load_32
user_load_32:
1:  ldtr    w0, [x0]
2:  ret
3:  mov     x0, #-1
    ret
    fixup   1b, 2b, 3b

// x0 = word (user, aligned), w1 = expected, w2 = new, w3 = whether FEAT_PAN is implemented. Returns the old
// word, which is replaced if it is the expected one; -1 on a fault; -2 if another observer accessed the word.
//
// There is no unprivileged form of the exclusives, so PSTATE.PAN is clear in between. The LDTR checks that
// EL0 may read the word. What EL0 may not write, EL1 may not write by these translation tables either.
.global user_compare_exchange_32
user_compare_exchange_32:
1:  ldtr    w4, [x0]
2:  cbz     w3, 3f
    .inst   0xd500409f                        // msr pan, #0
3:  ldaxr   w4, [x0]
    cmp     w4, w1
    b.ne    4f
    stlxr   w5, w2, [x0]
4:  mov     x0, x4
    b.ne    5f
    cbz     w5, 6f
    mov     x0, #-2
    b       6f
5:  clrex
6:  cbz     w3, 7f
    .inst   0xd500419f                        // msr pan, #1
7:  ret
8:  mov     x0, #-1
    b       6b
    fixup   1b, 2b, 8b
    fixup   3b, 4b, 8b
