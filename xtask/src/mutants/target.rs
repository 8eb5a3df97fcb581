//! The mutants whose oracle is a self-test or a case of the matrix.

use super::boot::BootTest;
use super::list::SourceMutant;
use super::oracle::Oracle;

/// A self-test that must fail with this text.
const fn test(name: &'static str, text: &'static str) -> Oracle {
    Oracle::BootTest(BootTest::SelfTest { name, text })
}

/// A case of the matrix that must fail and show this text.
const fn case(name: &'static str, text: &'static str) -> Oracle {
    Oracle::BootTest(BootTest::Case { name, text })
}

const FRESH: &str = "programs.freed_memory_is_zeroed_on_reuse";
const LEFT: &str = "programs.memory_of_a_dead_process_is_not_disclosed";
const STRUCTURES: &str = "programs.syscall_structures_leak_no_kernel_data";
const REGISTERS: &str = "programs.registers_leak_no_kernel_data";
const ENDED: &str = "programs.kill_at_any_time_releases_all_resources";
const AT_REST: &str = "programs.audit_passes_with_running_programs";
const WAKE: &str = "programs.futex_wake_wakes_the_requested_number";
const RULES: &str = "dma.audit_passes_with_all_kinds_of_buffers";

const TOUCH: &str = "kernel/src/vm/address_space/page_fault.rs";
const TAKE_ZEROED: &str = "let mut frames = pages::alloc_zeroed(hole.len() / PAGE_SIZE)";

/// All of them; `doc/mutants.md` has the same list, after that of [`super::list`].
pub const MUTANTS: &[SourceMutant] = &[
    SourceMutant {
        name: "PSTATE.PAN left clear after a fault",
        file: "arch/src/user_copy.s",
        item: "user_compare_exchange_32",
        from: "mov x0, #-1\n    b 6b",
        to: "mov x0, #-1\n    b 7b",
        oracle: test("cpu.pan_is_set_after_user_accesses", "PSTATE.PAN is clear"),
    },
    // The next two leave only memory dirty that libc does not use: its allocator relies on zeroed pages, so
    // that the probe would fault instead of finding the data. Here 64 KiB of the probe's 48 MiB.
    SourceMutant {
        name: "anonymous memory not zeroed",
        file: TOUCH,
        item: "populate_hole",
        from: TAKE_ZEROED,
        to: "let zeroed = hole.start().raw() != (1 << 48) - (32 << 20);\n        let mut frames = if zeroed { pages::alloc_zeroed(hole.len() / PAGE_SIZE) } else { memory::chunks::alloc(&mut zones::FrameAllocator::default(), &memory::Request::new(hole.len() / PAGE_SIZE)) }",
        oracle: test(FRESH, "not zero after reuse"),
    },
    // Exactly the first stack: `mmap` allocates from above and from below it.
    SourceMutant {
        name: "program stack not zeroed",
        file: TOUCH,
        item: "populate_hole",
        from: TAKE_ZEROED,
        to: "let top = program::USER_END - PAGE_SIZE;\n        let zeroed = !(top - (8 << 20)..top).contains(&hole.start().raw());\n        let mut frames = if zeroed { pages::alloc_zeroed(hole.len() / PAGE_SIZE) } else { memory::chunks::alloc(&mut zones::FrameAllocator::default(), &memory::Request::new(hole.len() / PAGE_SIZE)) }",
        oracle: test(LEFT, "on the stack is not zero"),
    },
    SourceMutant {
        name: "buffer not zeroed",
        file: "kernel/src/dma/buffer.rs",
        item: "new",
        from: "window::zero_all(&mut this.frames)",
        to: "{}",
        oracle: test("programs.buffers_and_anonymous_memory_are_zeroed", "word 0 is 0x5ec5"),
    },
    SourceMutant {
        name: "first chunk of a buffer not zeroed",
        file: "kernel/src/memory/window.rs",
        item: "zero_many",
        from: "frames.chunks()",
        to: "frames.chunks().skip(1)",
        oracle: test("programs.buffers_and_anonymous_memory_are_zeroed", "word 0 is 0x5ec5"),
    },
    SourceMutant {
        name: "non-cacheable buffer not zeroed",
        file: "kernel/src/memory/window.rs",
        item: "zero_all_non_cacheable",
        from: "unsafe { arch::memory::zero(range) };",
        to: "",
        oracle: test(FRESH, "not zero after reuse"),
    },
    SourceMutant {
        name: "padding of a UAPI structure not cleared",
        file: "kernel/src/fs/mod.rs",
        item: "stat_node",
        from: "ctime: time,",
        to: "ctime: time,\n        gap_blksize: -1,",
        oracle: test(STRUCTURES, "padding at"),
    },
    SourceMutant {
        name: "kernel address in a UAPI structure",
        file: "kernel/src/fs/mod.rs",
        item: "stat_node",
        from: "ino: id.inode(),",
        to: "ino: &raw const *node as u64,",
        oracle: test(STRUCTURES, "looks like a kernel address"),
    },
    SourceMutant {
        name: "UAPI structure partly filled",
        file: "kernel/src/syscall/process.rs",
        item: "uname",
        from: "&NAME",
        to: "&NAME.sysname",
        oracle: test(STRUCTURES, "uname does not write byte"),
    },
    SourceMutant {
        name: "UAPI structure from uninitialised stack",
        file: "kernel/src/syscall/process.rs",
        item: "uname",
        from: "call.memory().write(call.address(0), &NAME)",
        to: "let old = core::mem::MaybeUninit::<[u8; 390]>::uninit();\n    core::hint::black_box(&old);\n    \
             let _ = NAME;\n    call.memory().write_bytes(call.address(0), unsafe { old.assume_init_ref() })",
        oracle: test(STRUCTURES, "uname: "),
    },
    SourceMutant {
        name: "directory entry padding from uninitialised heap",
        file: "kernel/src/fs/directory.rs",
        item: "push",
        from: "out.resize(end, 0);",
        to: "out.reserve(end - out.len());\n    unsafe { out.set_len(end) };",
        oracle: test(STRUCTURES, "an unterminated name"),
    },
    SourceMutant {
        name: "kernel register values in a new program",
        file: "arch/src/context.s",
        item: "context_enter_user",
        from: "ldp x0, x1, [x30]",
        to: "",
        oracle: test(REGISTERS, "at entry"),
    },
    SourceMutant {
        name: "vector registers not initialised in a new program",
        file: "arch/src/context.rs",
        item: "new",
        from: "q: [0; 32]",
        to: "q: [7; 32]",
        oracle: test(REGISTERS, "v0 is 0x7 at entry"),
    },
    SourceMutant {
        name: "wrong TPIDR_EL0 in a new program",
        file: "kernel/src/process/task.rs",
        item: "new",
        from: "FpState::new(), thread_pointer",
        to: "FpState::new(), thread_pointer: thread_pointer + 8",
        oracle: test(REGISTERS, "TPIDR"),
    },
    SourceMutant {
        name: "vector registers not restored by a context switch",
        file: "kernel/src/process/task.rs",
        item: "restore",
        from: "registers.fp.restore();",
        to: "",
        oracle: test(REGISTERS, ": v"),
    },
    SourceMutant {
        name: "kernel address in a register after a system call",
        file: "kernel/src/syscall/mod.rs",
        item: "dispatch",
        from: "None => unknown(number),",
        to: "None => {\n            frame.x_mut()[9] = (&raw const *frame) as u64;\n            unknown(number)\n        }",
        oracle: test(REGISTERS, "x9"),
    },
    SourceMutant {
        name: "TPIDRRO_EL0 not cleared after a kernel fault",
        file: "arch/src/exception.s",
        item: "sync_from_kernel",
        from: "msr tpidrro_el0, xzr",
        to: "",
        oracle: test(REGISTERS, "TPIDRRO"),
    },
    SourceMutant {
        name: "device buffer not cleared between programs",
        file: "kernel/src/devices/dma_engine/mod.rs",
        item: "transfer_for",
        from: "if let Err(error) = self.clear() { return (Some(job.memory), Err(error)); }",
        to: "let _ = Self::clear;",
        oracle: test(
            "programs.device_buffer_is_cleared_between_processes",
            "of the internal buffer contains data of another program",
        ),
    },
    SourceMutant {
        name: "buffer freed while mapped for a device",
        file: "kernel/src/dma/attachment.rs",
        item: "drop",
        from: "self.device.domain().unmap(self.range, buffer)",
        to: "Ok::<_, DmaError>(buffer)",
        oracle: test(RULES, "is free, and mapped by Domain("),
    },
    SourceMutant {
        name: "IOVA range freed while mapped",
        file: "kernel/src/dma/domain.rs",
        item: "unmap",
        from: "let small = self.small.get()",
        to: "if range.len() > SmallMappings::MAX_BYTES {\n            self.iova_space.lock().free(range);\n            \
             core::mem::forget(held);\n            return Err(DmaError::IommuTimeout);\n        }\n        \
             let small = self.small.get()",
        oracle: test(RULES, "which is not allocated"),
    },
    SourceMutant {
        name: "device mapping with another memory type",
        file: "kernel/src/dma/attachment.rs",
        item: "mapping",
        from: "buffer.memory()",
        to: "MemoryType::NonCacheable",
        oracle: test(RULES, "is WriteBack for Linear and NonCacheable for Domain("),
    },
    SourceMutant {
        name: "cacheable mapping for a device that does not snoop",
        file: "kernel/src/dma/domain.rs",
        item: "device_memory",
        from: "if self.is_non_coherent() { MemoryType::NonCacheable } else { memory }",
        to: "memory",
        oracle: test("dma.device_mappings_are_cacheable_only_for_devices_that_snoop", "not NonCacheable"),
    },
    SourceMutant {
        name: "program mapping with another memory type",
        file: "kernel/src/vm/address_space/entries.rs",
        item: "map_shared_part",
        from: "shared.memory()",
        to: "addr::MemoryType::WriteBack",
        oracle: test(AT_REST, "for Program("),
    },
    SourceMutant {
        name: "page writable and executable",
        file: "lib/pagetable/src/protect.rs",
        item: "change_leaves",
        from: "old.with_attributes(attributes)",
        to: "old.with_attributes(attributes & !(1 << 7))",
        oracle: test(AT_REST, "is mapped writable and executable by Private("),
    },
    SourceMutant {
        name: "device or program memory executable by the kernel",
        file: "lib/pagetable/src/fill.rs",
        item: "fill_step",
        from: "Descriptor::leaf(PhysAddr::new(cursor.to), step.level, attributes)",
        to: "Descriptor::leaf(PhysAddr::new(cursor.to), step.level, attributes & !((attributes & 1 << 11) << 42))",
        oracle: test(RULES, "is mapped writable and executable by Domain("),
    },
    SourceMutant {
        name: "kernel mapping accessible to EL0",
        file: "lib/pagetable/src/fill.rs",
        item: "fill_step",
        from: "Descriptor::leaf(PhysAddr::new(cursor.to), step.level, attributes)",
        to: "Descriptor::leaf(PhysAddr::new(cursor.to), step.level, attributes | u64::from(cursor.at >> 43 == 0x12) << 6)",
        oracle: test(RULES, "is mapped by Kernel with an irregular descriptor"),
    },
    SourceMutant {
        name: "program memory mapped for the kernel",
        file: TOUCH,
        item: "populate_hole",
        from: "let mapped = self.map(hole.start(), frames.chunks(), mapping);",
        to: "let mapped = self.map(hole.start(), frames.chunks(), mapping);\n        \
             let other = pagetable::Mapping::read_write(addr::MemoryType::WriteBack);\n        \
             let view = unsafe { crate::memory::vmalloc::VMALLOC.map(frames.chunks(), PAGE_SIZE, other) };\n        \
             let _ = view.map(|view| view.leak());\n",
        oracle: test(AT_REST, "with running programs: 0x"),
    },
    SourceMutant {
        name: "frame freed twice",
        file: "kernel/src/dma/buffer.rs",
        item: "drop",
        from: "self.view = Once::new();",
        to: "self.view = Once::new();\n        if self.len() == PAGE_SIZE {\n            \
             self.chunks().for_each(|page| zones::free(unsafe { OwnedChunk::adopt(page) }));\n        }\n",
        oracle: test("programs.buffer_size_is_rounded_up_to_pages", "is free twice"),
    },
    SourceMutant {
        name: "page table freed while linked",
        file: "lib/pagetable/src/unmap.rs",
        item: "clear",
        from: "store(slot, Descriptor::INVALID);",
        to: "if level != 2 || !entry.is_table(level) { store(slot, Descriptor::INVALID); }",
        oracle: test(RULES, "is both free and a page table"),
    },
    SourceMutant {
        name: "leaked device page table",
        file: "kernel/src/iommu/table_memory.rs",
        item: "allocate",
        from: "table_frames::alloc()?",
        to: "table_frames::alloc().and_then(|_| table_frames::alloc())?",
        oracle: test(RULES, "bytes of tables, of"),
    },
    SourceMutant {
        name: "per-CPU root table differs from the kernel's",
        file: "lib/pagetable/src/root.rs",
        item: "per_cpu_root",
        from: "self.copy_to(m, root);",
        to: "self.copy_to(m, root);\n        store(&m.entries(TableRef::new(root))[288], Descriptor::INVALID);",
        oracle: test("boot.runs_at_el1", "differs from the kernel's at"),
    },
    SourceMutant {
        name: "temporary mapping not removed",
        file: "kernel/src/memory/window.rs",
        item: "with_mapped",
        from: "window.unmap(self.filled);",
        to: "",
        oracle: test(RULES, "is still mapped in a window"),
    },
    SourceMutant {
        name: "temporary block mapping not removed",
        file: "kernel/src/memory/window.rs",
        item: "with_block",
        from: "window.unmap_block();",
        to: "",
        oracle: test("programs.buffers_and_anonymous_memory_are_zeroed", "is still mapped in a window"),
    },
    SourceMutant {
        name: "PCI configuration space with early write acknowledgement",
        file: "kernel/src/devices/pci.rs",
        item: "open",
        from: "vmalloc::map_non_posted_registers(description.ecam)",
        to: "vmalloc::map_registers(description.ecam)",
        oracle: test("memory.pci_configuration_space_is_non_posted", "0x0 bytes are Device-nGnRnE"),
    },
    SourceMutant {
        name: "bus mastering not disabled at boot",
        file: "drivers/src/pcie/function.rs",
        item: "INTX_OFF",
        from: "1 << 10",
        to: "1 << 10 | MASTER",
        oracle: case("dma-left-running-no-smmu", "probe: checksum: FAIL"),
    },
    SourceMutant {
        name: "SMMU aborts too late at boot",
        file: "kernel/src/boot.rs",
        item: "start_kernel",
        from: "iommu::abort_all(&platform.smmus);",
        to: "let _ = iommu::abort_all;\n        let deadline = arch::timer::Deadline::in_ns(200_000_000);\n        \
             while !deadline.passed() {}\n",
        oracle: case("dma-left-running", "probe: checksum: FAIL"),
    },
    SourceMutant {
        name: "file descriptor leaked by a killed program",
        file: "kernel/src/process/process.rs",
        item: "release",
        from: "files.for_each(drop);",
        to: "files.for_each(core::mem::forget);",
        oracle: test(ENDED, "became"),
    },
    SourceMutant {
        name: "page pin leaked by a killed program",
        file: "kernel/src/vm/pages.rs",
        item: "drop",
        from: "let free = PINS.lock().unpin(frame);",
        to: "if crate::sched::current().is_interrupted() {\n                continue;\n            }\n            let free = PINS.lock().unpin(frame);",
        oracle: test(ENDED, "became"),
    },
    SourceMutant {
        name: "futex wake of one thread too many",
        file: "kernel/src/process/futex.rs",
        item: "wake_first",
        from: "woken < count",
        to: "woken < count + usize::from(count == 1)",
        oracle: test(WAKE, "a wake of 1 returned 2"),
    },
    SourceMutant {
        name: "futex wake ignores the bit mask",
        file: "kernel/src/process/futex.rs",
        item: "wake_first",
        from: "waiter.bits & bits != 0",
        to: "bits != 0",
        oracle: test(WAKE, "a wake by bit 3 returned 4"),
    },
    SourceMutant {
        name: "shared file mapping made writable",
        file: "kernel/src/vm/address_space/backing.rs",
        item: "max_prot",
        from: "Self::File { is_shared: true, .. } => Prot::READ | Prot::EXEC,",
        to: "Self::File { is_shared: true, .. } => Prot::all(),",
        oracle: test("programs.private_file_mapping_is_a_copy", "mprotect returned 0"),
    },
    SourceMutant {
        name: "file mapping accessible above the end of the file",
        file: "kernel/src/vm/address_space/page_fault.rs",
        item: "initial_content",
        from: "(content.len() as u64).next_multiple_of(PAGE_SIZE)",
        to: "(content.len() as u64 + PAGE_SIZE).next_multiple_of(PAGE_SIZE)",
        oracle: test("programs.file_mapping_ends_with_the_file", "end of the file is accessible"),
    },
    SourceMutant {
        name: "mremap leaves the old pages mapped",
        file: "kernel/src/vm/address_space/vma.rs",
        item: "move_entries",
        from: "mapped.and_then(|()| self.clear_entries(from.range))",
        to: "mapped",
        oracle: test("programs.mremap_moves_pages_without_a_copy", "the old range is mapped"),
    },
    SourceMutant {
        name: "signal mask not restored after a handler",
        file: "kernel/src/process/signals.rs",
        item: "return_from_handler",
        from: "task.set_signal_mask(SignalSet::from_bits(context.mask));",
        to: "",
        oracle: test("programs.blocked_signals_stay_pending", "calls of the handler"),
    },
    SourceMutant {
        name: "signal handler not blocked against its own signal",
        file: "kernel/src/process/signals.rs",
        item: "deliver_all",
        from: "task.set_signal_mask(during);",
        to: "let _ = during;",
        oracle: test("programs.blocked_signals_stay_pending", "calls nest 3 deep"),
    },
    SourceMutant {
        name: "vector registers not restored after a handler",
        file: "kernel/src/process/signals.rs",
        item: "return_from_handler",
        from: "FpState::from_registers(q, fp.fpcr, fp.fpsr).restore();",
        to: "let _ = q;",
        oracle: test("programs.handlers_are_called_and_registers_restored", "vector registers"),
    },
    SourceMutant {
        name: "interrupted system call restarted with its result",
        file: "kernel/src/process/signals.rs",
        item: "restart_call",
        from: "frame.x_mut()[0] = call.argument;",
        to: "let _ = call;",
        oracle: test("programs.signals_end_or_restart_waits", "the wait returned"),
    },
    SourceMutant {
        name: "futex requeue moves all waiters",
        file: "kernel/src/process/futex.rs",
        item: "requeue",
        from: ".take(moved)",
        to: ".take(usize::MAX - moved)",
        oracle: test(
            "programs.futex_requeue_wakes_and_moves_waiters",
            "a requeue of 1 + 2 returned 6, not 3",
        ),
    },
    SourceMutant {
        name: "edge-triggered interest queued again",
        file: "kernel/src/fs/epoll/mod.rs",
        item: "collect",
        from: "EpollFlags::EDGE_TRIGGERED | EpollFlags::ONESHOT",
        to: "EpollFlags::ONESHOT",
        oracle: test("programs.epoll_reports_levels_edges_and_one_shots", "the edge is reported once"),
    },
    SourceMutant {
        name: "munmap of the first mapping only",
        file: "kernel/src/vm/address_space/mod.rs",
        item: "unmap",
        from: "rest = AddrRange::new(part.range.end(), range.end());",
        to: "rest = AddrRange::new(part.range.end(), part.range.end());",
        oracle: test("programs.munmap_removes_all_mappings_of_a_range", "a mapping is left after munmap"),
    },
    SourceMutant {
        name: "MADV_DONTNEED of the first mapping only",
        file: "kernel/src/vm/address_space/mod.rs",
        item: "advise",
        from: "try_parts(range).map_err(vma_errno)?",
        to: "try_parts(range).map_err(vma_errno)?.into_iter().take(1)",
        oracle: test("programs.discarded_memory_reads_as_zero", "in page 4 is 0x"),
    },
    SourceMutant {
        name: "munmap not ended by the termination of the process",
        file: "kernel/src/vm/address_space/entries.rs",
        item: "unmap_owned",
        from: "batch.is_full() && must_stop()",
        to: "batch.is_full() && must_stop() && false",
        oracle: test("programs.terminating_thread_ends_long_memory_calls", "madvise is not ended"),
    },
    SourceMutant {
        name: "console write not ended by the termination of the process",
        file: "kernel/src/fs/console.rs",
        item: "write",
        from: "if sched::is_interrupted()",
        to: "if sched::is_interrupted() && false",
        oracle: test("programs.kill_ends_a_long_console_write", "console-write still writes"),
    },
    SourceMutant {
        name: "string read across a page border",
        file: "kernel/src/vm/access.rs",
        item: "read_string",
        from: "(64 - at.raw() % 64)",
        to: "(64 - at.raw() % 1)",
        oracle: test("programs.strings_end_at_page_borders", "Inaccessible: -14, not 0"),
    },
    SourceMutant {
        name: "kernel mappings without guard pages",
        file: "kernel/src/memory/vmalloc.rs",
        item: "init",
        from: "with_guard(space, PAGE_SIZE)",
        to: "with_guard(space, 0)",
        oracle: test("memory.kernel_mappings_have_guard_pages", "no guard page next to"),
    },
    SourceMutant {
        name: "linear alias restored with a block",
        file: "kernel/src/memory/linear.rs",
        item: "restore_alias",
        from: "mapping()",
        to: "Mapping::read_write(MemoryType::WriteBack)",
        oracle: test("memory.linear_alias_is_removed_and_restored", "is restored with a mapping of 0x200000"),
    },
    SourceMutant {
        name: "copy without a fence in its buffer",
        file: "kernel/src/fs/dma_buf.rs",
        item: "start_access",
        from: "self.fences.lock().add(pending.fence(), access);",
        to: "let _ = access;",
        oracle: test("programs.fences_are_pending_until_the_copy_ends", "status: 1"),
    },
    SourceMutant {
        name: "input of the console not echoed",
        file: "kernel/src/fs/console.rs",
        item: "process",
        from: "console::write_bytes(&echo);",
        to: "drop(echo);",
        oracle: case("console-input", "read nothing in time"),
    },
];
