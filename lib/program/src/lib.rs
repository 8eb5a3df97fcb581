//! Data structures of a process, independent of the machine: ELF load plan ([`Executable`]), initial stack
//! ([`StackImage`]), virtual memory areas ([`VmaMap`]), files ([`CpioArchive`], [`FileTree`]), file
//! descriptor table ([`FdTable`]), pages of memory objects ([`PageIndex`]), frame records ([`FrameRecord`],
//! [`BlockRecord`], [`FrameTable`]), fences of buffers ([`BufferFences`]), the line discipline of a terminal
//! ([`LineDiscipline`]), the tree of processes ([`ProcessTree`]) and robust futexes
//! ([`release_robust_list`]).
//!
//! All external input (archives, ELF files, paths, addresses) is untrusted: it is validated on construction,
//! and errors carry the offending value.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod block_record;
mod chunk_range;
mod cpio;
mod executable;
mod fd_table;
mod fence;
mod file_tree;
mod frame_record;
mod frame_table;
mod line_discipline;
mod page_index;
mod pi_futex;
mod proc_text;
mod process_tree;
mod robust_list;
mod script;
mod signals;
mod stack;
mod vdso;
mod vma;

pub use block_record::{BlockRecord, HugePageSize, UnusedBlock};
pub use chunk_range::{ChunkRange, chunk_range};
pub use cpio::{CpioArchive, CpioEntry, CpioError};
pub use executable::{Executable, ExecutableError, LoadAddress, LoadSegment};
pub use fd_table::{FdEntry, FdTable};
pub use fence::{BufferAccess, BufferFences, Fence, FenceSet, FenceSignal, PendingFence};
pub use file_tree::{
    ArchiveError, Directory, DirectoryEntry, FileTimes, FileTree, LINK_MODE, LinkTarget, MountId, NODES_MAX,
    Namespace, Node, NodeId, NodeKind, PathEnd, RenameMode, resolve,
};
pub use frame_record::{CowWrite, ForkedFrame, FrameRecord, TooManyReferences};
pub use frame_table::{FrameTable, OutOfRecords};
pub use line_discipline::{LineDiscipline, ReadState};
pub use page_index::PageIndex;
pub use pi_futex::{LockAttempt, inherit as inherit_pi, lock as lock_pi, unlock as unlock_pi};
pub use proc_text::{
    CpuTimes, MapLine, MemoryReport, ProcessReport, RunState, write_cpu_info, write_cpu_list,
    write_cpu_times, write_limits, write_seconds,
};
pub use process_tree::{ChildKind, ChildWait, Exit, JobChange, ProcessTree, WaitEvents, WaitSelector};
pub use robust_list::{FutexMemory, release_robust_list};
pub use script::{ScriptInterpreter, script_interpreter};
pub use signals::{Delivery, PendingSignals, deliver, deliver_forced};
pub use stack::{ARGUMENTS_MAX, StackImage, StackImageError, StackRequest};
pub use vdso::{Vdso, VdsoTime};
pub use vma::{Alignment, MappedObject, MemoryLock, Vma, VmaError, VmaMap};

/// The end of the user address space: 48 bits in TTBR0.
pub const USER_END: u64 = 1 << 48;
/// The lowest address that can be mapped, so that accesses at small offsets from a null pointer fault.
pub const USER_START: u64 = 0x1_0000;
