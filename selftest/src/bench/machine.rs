//! What the machine cost until here: instructions of the boot, and memory for books.

use addr::PAGE_SIZE;
use kernel::kprintln;
use kernel::memory::{layout, zones};
use memory::Zone;

/// Prints the ticks since the counter started, which on an emulator is reset, and how many bytes of RAM the
/// kernel has taken besides its image: page tables, the heap (the allocators' books among it), stacks, the
/// SMMU's queues and tables.
pub fn report() {
    let ticks = arch::timer::now();
    let taken = [Zone::Low, Zone::High].map(|zone| zones::stats(zone).allocated * PAGE_SIZE);
    kprintln!(
        "BENCH boot size={} attrs=0 alloc_ticks={ticks} free_ticks=0 iters=1 chunks=0 metadata={}",
        layout().total,
        taken.iter().sum::<u64>(),
    );
}
