// Entry point, drop to EL1, early page tables, and the branch to the high half.
//
// The code is position-independent: the image may be loaded at any 2 MiB-aligned physical address. Symbols
// are addressed by ADRP, so the section boundaries used here are page-aligned (linker.ld). The only absolute
// addresses are those of the high half, in literals. Section numbers without a document are those of DDI 0487
// (Arm ARM); registers are in its D24.
//
// Live throughout the primary path: x20 = x0 at entry (device tree), x21 = exception level at entry.

.equ PAGE, 4096
.equ PAGE_TABLE, 0b11                         // D8.3.1: a valid table or page descriptor
.equ PAGE_RX, 0x0040000000000783              // UXN, AF, inner shareable, read-only, MAIR index 0
.equ PAGE_R,  0x0060000000000783              // PXN too
.equ PAGE_RW, 0x0060000000000703              // writable

.equ SCTLR_OFF, 0x30d00800                    // MMU off, LE; LSMAOE nTLSMD SPAN EIS TSCXT EOS: RES1 once
// M C SA SA0 ITD SED EOS I DZE UCT nTWI nTWE WXN TSCXT EIS UCI nTLSMD LSMAOE
.equ SCTLR_ON,  0x345dd99d
.equ SCTLR_SPAN, 1 << 23
.equ SCTLR_MSCEN, 1 << 33
.equ HCRX_MSCEN, 1 << 11
.equ SCTLR_EL2_OFF, 0x30c50830                // RES1, MMU off
.equ TCR, 0xb5103510                          // 48-bit halves, 4 KiB, WB RA WA IS walks, ASID in TTBR0
.equ TCR_IPS_SHIFT, 32
.equ TCR_AS, 1 << 36
.equ TCR_E0PD1, 1 << 56
.equ MAIR, 0x000444ff                         // 0 write-back, 1 non-cacheable, 2 Device-nGnRE, 3 nGnRnE

.equ SECURE_WRITE, 0x5401                     // low half of the function ID (monitor.rs)
.equ SECURE_WRITE_OWNER, 0xc300

.equ EC_HVC64, 0x16
.equ EC_SMC64, 0x17

.equ SPSR_EL1H, 0x3c5                         // DAIF masked
.equ SPSR_EL2H, 0x3c9

// dst = the 4-bit field at `lsb` of ID register `reg`; Z is set if it is 0.
.macro id_field dst, reg, lsb
    mrs     \dst, \reg
    ubfx    \dst, \dst, #\lsb, #4
    cmp     \dst, #0
.endm

// Z is clear if the CPU has pointer authentication: QARMA5, IMPLEMENTATION DEFINED, or QARMA3. Clobbers x9
// and x11.
.macro has_pauth
    mrs     x9, id_aa64isar1_el1              // APA 7:4, API 11:8, GPA 27:24, GPI 31:28
    and     x11, x9, #0xff0
    and     x9, x9, #0xff000000
    orr     x11, x11, x9
    mrs     x9, S3_0_C0_C6_2                  // ID_AA64ISAR2_EL1: GPA3 11:8, APA3 15:12
    and     x9, x9, #0xff00
    orr     x11, x11, x9
    cmp     x11, #0
.endm

// Forwards a trap to EL\level from EL0 or EL1h to EL1 as an exception with an unknown reason (EC 0), which an
// UNDEFINED instruction takes. x3 was saved in TPIDR_EL\level; the other operands are the registers of EL1 as
// EL\level accesses them.
.macro forward_undefined level, elr, spsr, esr, vbar
    mrs     x3, elr_el\level
    msr     \elr, x3
    mov     x3, #(1 << 25)                    // EC 0 (unknown reason), IL
    msr     \esr, x3
    mrs     x3, spsr_el\level
    msr     \spsr, x3
    tst     x3, #0xf                          // M: 0 is EL0
    mrs     x3, \vbar
    b.eq    1f
    add     x3, x3, #0x200                    // synchronous, from EL1h
    b       2f
1:  add     x3, x3, #0x400                    // synchronous, from EL0
2:  msr     elr_el\level, x3
    id_field x3, id_aa64mmfr1_el1, 20         // FEAT_PAN: set, as by an exception with SCTLR_EL1.SPAN = 0
    mov     x3, #SPSR_EL1H
    b.eq    1f
    orr     x3, x3, #(1 << 22)
1:  msr     spsr_el\level, x3
    mrs     x3, tpidr_el\level
    eret
.endm

// ---- the arm64 Image header (Linux, Documentation/arch/arm64/booting.rst) ---------------------------------

.section .boot, "ax"
.global _start
_start:
    b       primary_start
    .long   0
    .quad   0                                 // text_offset
    .quad   __image_size                      // size in memory, including .bss and stacks
    .quad   0b1010                            // little endian, 4 KiB pages, anywhere in memory
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

// ---- the boot CPU -----------------------------------------------------------------------------------------

primary_start:
    mrs     x21, CurrentEL
    lsr     x21, x21, #2
    cmp     x21, #3
    b.ne    1f
    // Without firmware all CPUs enter here at once. The CPU with affinity 0 boots, the others are parked.
    mrs     x9, mpidr_el1
    ldr     x10, =0xff00ffffff
    tst     x9, x10
    b.ne    parking_lot
1:  mov     x20, x0
    bl      drop_to_el1
    bl      init_el1

    // The loader cleaned the image to the point of coherency, but not .bss. Stores with the MMU off bypass
    // the caches. Stale lines must not be evicted over the zeros (first invalidation) and must not be hit
    // after the caches are enabled (second invalidation).
    adrp    x0, __bss_start
    adrp    x1, __bss_end
    bl      invalidate_to_poc
    adrp    x0, __bss_start
    adrp    x1, __bss_end
0:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    0b
    bl      build_tables
    adrp    x0, __bss_start
    adrp    x1, __bss_end
    bl      invalidate_to_poc

    adrp    x0, IDENTITY_TABLES
    adrp    x1, EARLY_ROOT
    ldr     x2, =primary_high
    adrp    x22, __image_start
    b       enable_mmu

primary_high:
    ldr     x9, =__boot_stack_top
    mov     sp, x9
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x20
    mov     x1, x22
    mov     x2, x21
    bl      boot_cpu_main
    b       .

// ---- secondary CPUs ---------------------------------------------------------------------------------------

// Waits, at any exception level, until boot::release_parked writes the affinity of this CPU and then the
// address of its SecondaryArgs.
.global parking_lot
parking_lot:
    mrs     x9, mpidr_el1
    ldr     x10, =0xff00ffffff
    and     x9, x9, x10
    adrp    x10, PARKED
    add     x10, x10, :lo12:PARKED
1:  wfe
    ldr     x11, [x10]
    cmp     x11, x9
    b.ne    1b
    // Affinity before arguments: the affinity changes only while the arguments are 0, so the arguments read
    // now are those of this CPU.
    dsb     sy
    ldr     x0, [x10, #8]
    cbz     x0, 1b

// x0 = physical address of a SecondaryArgs (boot.rs). Entered by CPU_ON at EL2 or EL1, or from the loop
// above.
.global secondary_start
secondary_start:
    mov     x20, x0
    bl      drop_to_el1
    bl      init_el1
    ldp     x1, x22, [x20]
    ldr     x21, [x20, #16]
    adrp    x0, IDENTITY_TABLES
    ldr     x2, =secondary_high
    b       enable_mmu

secondary_high:
    mov     sp, x22
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x21
    bl      secondary_cpu_main
    b       .

// ---- drop to EL1 ------------------------------------------------------------------------------------------

// Called at any exception level; returns at EL1h with DAIF masked and the MMU off. Clobbers x9-x12.
drop_to_el1:
    msr     daifset, #0xf
    mrs     x9, CurrentEL
    cmp     x9, #(3 << 2)
    b.eq    from_el3
    cmp     x9, #(2 << 2)
    b.eq    from_el2
    ldr     x9, =SCTLR_OFF
    msr     sctlr_el1, x9
    isb
    msr     spsel, #1
    ret

// EL3: there is no firmware. Disables the traps of Non-secure state. The interrupt groups are configured
// later through el3_vectors, since the addresses of the interrupt controller are in the device tree.
// CNTFRQ_EL0 keeps the value of the reset or the loader.
from_el3:
    mov     x10, #0x531                       // SCR_EL3: NS, RES1 5:4, HCE, RW
    has_pauth
    b.eq    1f
    orr     x10, x10, #(3 << 16)              // APK, API: do not trap it
1:  id_field x9, id_aa64mmfr0_el1, 56         // FEAT_FGT
    b.eq    1f
    orr     x10, x10, #(1 << 27)              // FGTEn
    cmp     x9, #2
    b.lo    1f
    orr     x10, x10, #(1 << 59)              // FGTEn2
1:  id_field x9, id_aa64mmfr1_el1, 40         // FEAT_HCX
    b.eq    1f
    orr     x10, x10, #(1 << 38)              // HXEn
1:  msr     scr_el3, x10
    msr     cptr_el3, xzr                     // traps SVE and SME, which are not used; does not trap FP/SIMD
    msr     mdcr_el3, xzr
    adr     x9, el3_vectors
    msr     vbar_el3, x9
    isb
    id_field x9, id_aa64pfr0_el1, 24          // GIC CPU interface as system registers (IHI 0069, 12.2)
    b.eq    1f
    mov     x9, #0xf                          // SRE, DFB, DIB, Enable
    msr     S3_6_C12_C12_5, x9                // ICC_SRE_EL3
    isb
1:  id_field x9, id_aa64pfr0_el1, 8           // EL2 implemented?
    b.eq    1f
    ldr     x9, =SCTLR_EL2_OFF
    msr     sctlr_el2, x9
    mov     x9, #(1 << 31)                    // HCR_EL2.RW only: E2H and TGE are UNKNOWN after reset
    msr     hcr_el2, x9
    mov     x9, #SPSR_EL2H
    adr     x10, from_el2
    b       2f
1:  ldr     x9, =SCTLR_OFF
    msr     sctlr_el1, x9
    mov     x9, #SPSR_EL1H
    mov     x10, x30
2:  msr     spsr_el3, x9
    msr     elr_el3, x10
    eret

// EL2: disables the traps and the virtualization of EL1. Each register is written as a whole: after reset
// most fields are UNKNOWN.
from_el2:
    mov     x10, #(1 << 31)                   // HCR_EL2.RW
    has_pauth
    b.eq    1f
    orr     x10, x10, #(3 << 40)              // APK, API
1:  msr     hcr_el2, x10
    isb
    // If E2H is RES1 (no FEAT_E2H0), the write of 0 had no effect: CPTR_EL2 and CNTHCTL_EL2 have the VHE
    // layout, and "sctlr_el1" accesses SCTLR_EL2 (D24.1.2, register redirection).
    mrs     x10, hcr_el2
    ldr     x9, =SCTLR_OFF
    tbnz    x10, #34, 2f
    msr     sctlr_el1, x9
    mov     x9, #0x33ff                       // CPTR_EL2: RES1, TFP and TCPAC clear; SVE and SME trapped
    msr     cptr_el2, x9
    mov     x9, #3                            // CNTHCTL_EL2: EL1PCTEN, EL1PCEN
    b       3f
2:  msr     S3_5_C1_C0_0, x9                  // SCTLR_EL12
    mov     x9, #(3 << 20)                    // CPTR_EL2.FPEN
    msr     cptr_el2, x9
    mov     x9, #(3 << 10)                    // CNTHCTL_EL2: EL1PCTEN, EL1PTEN
3:  msr     cnthctl_el2, x9
    msr     cntvoff_el2, xzr
    msr     hstr_el2, xzr
    adr     x9, el2_vectors
    msr     vbar_el2, x9
    msr     vttbr_el2, xzr                    // VMID 0; stage 2 itself is off in HCR_EL2
    mrs     x9, midr_el1
    msr     vpidr_el2, x9
    mrs     x9, mpidr_el1
    msr     vmpidr_el2, x9
    id_field x9, id_aa64dfr0_el1, 8           // PMUVer: MDCR_EL2.HPMN must not exceed PMCR_EL0.N
    b.eq    1f
    cmp     x9, #0xf                          // IMPLEMENTATION DEFINED PMU
    mov     x9, xzr
    b.eq    1f
    mrs     x9, pmcr_el0
    ubfx    x9, x9, #11, #5
1:  msr     mdcr_el2, x9
    id_field x9, id_aa64pfr0_el1, 24          // GIC system registers
    b.eq    1f
    mov     x9, #0xf
    msr     S3_4_C12_C9_5, x9                 // ICC_SRE_EL2: SRE, DFB, DIB, Enable
    isb
    mrs     x9, S3_4_C12_C9_5
    tbz     x9, #0, 1f                        // EL3 keeps the CPU interface memory-mapped
    msr     S3_4_C12_C11_0, xzr               // ICH_HCR_EL2: no virtual interrupts, no traps
1:  id_field x9, id_aa64mmfr0_el1, 56         // FEAT_FGT
    b.eq    1f
    msr     S3_4_C1_C1_4, xzr                 // HFGRTR_EL2
    msr     S3_4_C1_C1_5, xzr                 // HFGWTR_EL2
    msr     S3_4_C1_C1_6, xzr                 // HFGITR_EL2
    msr     S3_4_C3_C1_4, xzr                 // HDFGRTR_EL2
    msr     S3_4_C3_C1_5, xzr                 // HDFGWTR_EL2
    cmp     x9, #2                            // FEAT_FGT2
    b.lo    2f
    msr     S3_4_C3_C1_2, xzr                 // HFGRTR2_EL2
    msr     S3_4_C3_C1_3, xzr                 // HFGWTR2_EL2
    msr     S3_4_C3_C1_7, xzr                 // HFGITR2_EL2
    msr     S3_4_C3_C1_0, xzr                 // HDFGRTR2_EL2
    msr     S3_4_C3_C1_1, xzr                 // HDFGWTR2_EL2
2:  id_field x9, id_aa64pfr0_el1, 44          // AMU
    b.eq    1f
    msr     S3_4_C3_C1_6, xzr                 // HAFGRTR_EL2
1:  id_field x9, id_aa64mmfr1_el1, 40         // FEAT_HCX
    b.eq    1f
    id_field x9, S3_0_C0_C6_2, 16             // ID_AA64ISAR2_EL1: FEAT_MOPS
    mov     x10, #HCRX_MSCEN                  // enabled at EL1 and EL0; MCE2 = 0: exceptions to EL1
    csel    x10, xzr, x10, eq
    msr     S3_4_C1_C2_2, x10                 // HCRX_EL2
1:  mov     x9, #SPSR_EL1H
    msr     spsr_el2, x9
    msr     elr_el2, x30
    eret

// EL2 vectors. There is no hypervisor: an HVC returns NOT_SUPPORTED (DEN 0028, 5.2), and any other
// instruction that EL2 traps is UNDEFINED at EL1 and EL0. No interrupt is routed to EL2.
.balign 2048
el2_vectors:
.rept 8
    b       .
    .balign 128
.endr
    b       el2_synchronous                   // from a lower level in AArch64
    .balign 128
.rept 7
    b       .
    .balign 128
.endr

el2_synchronous:
    msr     tpidr_el2, x3
    mrs     x3, esr_el2
    lsr     x3, x3, #26
    cmp     x3, #EC_HVC64
    b.ne    1f
    mov     x0, #-1
    mrs     x3, tpidr_el2
    eret
1:  mrs     x3, hcr_el2
    tbnz    x3, #34, el2_undefined_e2h         // E2H: EL1's registers have other names
    forward_undefined 2, elr_el1, spsr_el1, esr_el1, vbar_el1
el2_undefined_e2h:
    forward_undefined 2, S3_5_C4_C0_1, S3_5_C4_C0_0, S3_5_C5_C2_0, S3_5_C12_C0_0

// EL3 vectors of a machine without firmware. The only function (monitor.rs) writes w2 to the Secure register
// at x1. Other function IDs return NOT_SUPPORTED. Any instruction but SMC that EL3 traps is UNDEFINED at EL1
// and EL0: x0 to x2 are those of a program then.
.balign 2048
el3_vectors:
.rept 8
    b       .
    .balign 128
.endr
    b       el3_synchronous                   // from a lower level in AArch64
    .balign 128
.rept 7
    b       .
    .balign 128
.endr

el3_synchronous:
    msr     tpidr_el3, x3
    mrs     x3, esr_el3
    lsr     x3, x3, #26
    cmp     x3, #EC_SMC64
    b.ne    el3_undefined
    mov     x3, #SECURE_WRITE
    movk    x3, #SECURE_WRITE_OWNER, lsl #16
    cmp     x0, x3
    mov     x0, #-1
    b.ne    1f
    str     w2, [x1]
    dsb     sy
    mov     x0, xzr
1:  mrs     x3, tpidr_el3
    eret
el3_undefined:
    forward_undefined 3, elr_el1, spsr_el1, esr_el1, vbar_el1

// EL1 registers with the same value on all CPUs. Clobbers x9.
init_el1:
    mov     x9, #(3 << 20)
    msr     cpacr_el1, x9                     // FPEN: no FP/SIMD traps at EL0 and EL1
    mov     x9, #2
    msr     cntkctl_el1, x9                   // EL0VCTEN: EL0 reads CNTVCT_EL0 and no other timer register
    msr     mdscr_el1, xzr
    msr     contextidr_el1, xzr
    msr     cntv_ctl_el0, xzr
    msr     tpidr_el0, xzr
    msr     tpidrro_el0, xzr
    msr     tpidr_el1, xzr
    id_field x9, id_aa64dfr0_el1, 8
    b.eq    1f
    cmp     x9, #0xf
    b.eq    1f
    msr     pmuserenr_el0, xzr
1:  id_field x9, id_aa64pfr0_el1, 44          // AMU
    b.eq    1f
    msr     S3_3_C13_C2_3, xzr                // AMUSERENR_EL0
1:  id_field x9, id_aa64mmfr1_el1, 20         // FEAT_PAN
    b.eq    1f
    .inst   0xd500419f                        // msr pan, #1; exceptions set it by SCTLR_EL1.SPAN = 0
1:  isb
    ret

// ---- early page tables ------------------------------------------------------------------------------------

// Invalidates the cache lines of x0..x1 (line-aligned) without a write-back. Clobbers x9, x10.
invalidate_to_poc:
    mrs     x9, ctr_el0
    ubfx    x9, x9, #16, #4                   // DminLine, log2 of words
    mov     x10, #4
    lsl     x10, x10, x9
1:  dc      ivac, x0
    add     x0, x0, x10
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret

// Maps the pages from \start to \end into EARLY_PAGES, which is indexed by the page number in the image.
.macro map_image start, end, attributes
    adrp    x9, \start
    adrp    x10, \end
    ldr     x11, =\attributes
1:  sub     x12, x9, x13
    lsr     x12, x12, #9                      // a descriptor of eight bytes for each page
    orr     x15, x9, x11
    str     x15, [x14, x12]
    add     x9, x9, #PAGE
    cmp     x9, x10
    b.lo    1b
.endm

// Maps the image at its link address in 4 KiB pages, W^X and without the guard pages, and the page of code
// that enables the MMU at its physical address. Clobbers x9-x17.
build_tables:
    adrp    x13, __image_start
    adrp    x14, EARLY_PAGES
    map_image __text_start, __text_end, PAGE_RX
    map_image __rodata_start, __rodata_end, PAGE_R
    map_image __data_start, __data_end, PAGE_RW
    map_image __boot_stack_bottom, __boot_stack_top, PAGE_RW

    adrp    x9, EARLY_L2
    mov     x10, #0
1:  add     x11, x14, x10, lsl #12
    orr     x11, x11, #PAGE_TABLE
    str     x11, [x9, x10, lsl #3]
    add     x10, x10, #1
    cmp     x10, #8                           // EARLY_PAGES covers 16 MiB
    b.lo    1b
    orr     x9, x9, #PAGE_TABLE
    adrp    x10, EARLY_L1
    str     x9, [x10]
    orr     x10, x10, #PAGE_TABLE
    adrp    x9, EARLY_ROOT
    str     x10, [x9, #(256 * 8)]             // bits 47:39 of the link address

    adrp    x9, __idmap_start
    adrp    x10, IDENTITY_TABLES
    mov     x11, #39
1:  lsr     x12, x9, x11
    and     x12, x12, #0x1ff
    add     x15, x10, #PAGE
    orr     x16, x15, #PAGE_TABLE
    str     x16, [x10, x12, lsl #3]
    mov     x10, x15
    sub     x11, x11, #9
    cmp     x11, #12
    b.ne    1b
    ubfx    x12, x9, #12, #9
    ldr     x11, =PAGE_RX | 1 << 11           // nG: removed by an invalidation of its ASID
    orr     x11, x11, x9
    str     x11, [x10, x12, lsl #3]
    dsb     sy
    ret

.ltorg

// ---- identity-mapped page ---------------------------------------------------------------------------------

.section .idmap, "ax"

// x0 = TTBR0 (identity map), x1 = TTBR1, x2 = branch target in the high half. Clobbers x9-x12.
enable_mmu:
    ldr     x9, =MAIR
    msr     mair_el1, x9
    ldr     x9, =TCR
    id_field x10, id_aa64mmfr0_el1, 0         // PARange, at most 48 bits (5): 6 needs 52-bit descriptors
    mov     x11, #5
    cmp     x10, x11
    csel    x10, x10, x11, lo
    orr     x9, x9, x10, lsl #TCR_IPS_SHIFT
    id_field x10, id_aa64mmfr0_el1, 4         // ASIDBits
    b.eq    1f
    mov     x11, #TCR_AS
    orr     x9, x9, x11
1:  id_field x10, id_aa64mmfr2_el1, 60        // FEAT_E0PD: EL0 faults on the high half without a walk
    b.eq    1f
    mov     x11, #TCR_E0PD1
    orr     x9, x9, x11
1:  msr     tcr_el1, x9
    msr     ttbr0_el1, x0
    msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    ldr     x9, =SCTLR_ON
    id_field x10, id_aa64mmfr1_el1, 20        // FEAT_PAN: with SPAN = 0, exceptions to EL1 set PSTATE.PAN
    b.ne    1f
    orr     x9, x9, #SCTLR_SPAN
1:  id_field x10, S3_0_C0_C6_2, 16            // ID_AA64ISAR2_EL1: FEAT_MOPS, enabled at EL0
    b.eq    1f
    orr     x9, x9, #SCTLR_MSCEN
1:  msr     sctlr_el1, x9
    isb
    br      x2

// x0 = new TTBR1, x1 = empty table. Called at its physical address (mmu::replace_ttbr1). Accesses no memory,
// since the stack is unmapped meanwhile.
.global idmap_replace_ttbr1
idmap_replace_ttbr1:
    msr     ttbr1_el1, x1
    isb
    tlbi    vmalle1
    dsb     nsh
    isb
    msr     ttbr1_el1, x0
    isb
    ret

.ltorg
