//! The cost of boot: instructions, and memory for the kernel's data structures.

use addr::PAGE_SIZE;
use kernel::kprintln;
use kernel::memory::{layout, zones};
use memory::Zone;

/// Prints the ticks since the counter started, which on an emulator is at reset, and the bytes of RAM that
/// the kernel has allocated besides its image: page tables, the heap (which has the allocators' metadata),
/// stacks, the SMMU's queues and tables.
pub fn report() {
    let ticks = arch::timer::now();
    let allocated = [Zone::Low, Zone::High].map(|zone| zones::stats(zone).allocated * PAGE_SIZE);
    kprintln!(
        "BENCH boot size={} attrs=0 alloc_ticks={ticks} free_ticks=0 iters=1 chunks=0 metadata={}",
        layout().total,
        allocated.iter().sum::<u64>(),
    );
}
