//! A buffer of the system heap with the `dma-heap` and `dma-buf` crates.

use dma_buf::DmaBuf;
use dma_heap::{Heap, HeapKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::new(HeapKind::System)?;
    let mut mapped = DmaBuf::from(heap.allocate(1 << 20)?).memory_map()?;
    mapped.write(
        |bytes: &mut [u8], _: Option<()>| {
            bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = n as u8);
            Ok(())
        },
        None,
    )?;
    let add = |bytes: &[u8], _: Option<()>| Ok(bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>());
    let sum = mapped.read(add, None)?;
    println!("sum: {sum}");
    Ok(())
}
