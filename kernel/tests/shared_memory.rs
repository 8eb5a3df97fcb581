//! Memory objects on a kernel with memory management on the host, against a model of their bytes.

#[path = "host_memory/mod.rs"]
mod host_memory;

use abi::Errno;
use abi::file::Seals;
use addr::PAGE_SIZE;
use kernel::vm::shared_memory::{SIZE_MAX, SharedMemory, page_count, page_limit};
use proptest::prelude::*;
use std::collections::BTreeSet;

const PAGE: usize = PAGE_SIZE as usize;

#[derive(Clone, Debug)]
enum FileStep {
    Write(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Allocate(usize, usize, bool),
    Read(usize, usize),
}

fn steps() -> impl Strategy<Value = FileStep> {
    let (at, len) = (|| 0usize..40_000, || 0usize..9000);
    prop_oneof![
        (at(), len()).prop_map(|(at, len)| FileStep::Write(at, len)),
        at().prop_map(FileStep::Truncate),
        (at(), len()).prop_map(|(at, len)| FileStep::Punch(at, len)),
        (at(), len(), any::<bool>()).prop_map(|(at, len, extends)| FileStep::Allocate(at, len, extends)),
        (at(), len()).prop_map(|(at, len)| FileStep::Read(at, len)),
    ]
}

/// The bytes, and the numbers of the allocated pages.
#[derive(Default)]
struct FileModel {
    bytes: Vec<u8>,
    pages: BTreeSet<usize>,
}

impl FileModel {
    fn grow(&mut self, end: usize) {
        self.bytes.resize(self.bytes.len().max(end), 0);
    }

    fn allocate(&mut self, at: usize, end: usize) {
        self.pages.extend(at / PAGE..end.div_ceil(PAGE).max(at / PAGE));
    }

    fn punch(&mut self, at: usize, end: usize) {
        let end_of_bytes = end.min(self.bytes.len());
        self.bytes[at.min(end_of_bytes)..end_of_bytes].fill(0);
        self.pages.retain(|page| !(at.div_ceil(PAGE)..end / PAGE).contains(page));
    }

    fn data_from(&self, at: usize) -> Result<u64, Errno> {
        let page = self.pages.range(at / PAGE..).next().ok_or(Errno::ENXIO)?;
        Some(at.max(page * PAGE)).filter(|&at| at < self.bytes.len()).map(|at| at as u64).ok_or(Errno::ENXIO)
    }

    fn hole_from(&self, at: usize) -> Result<u64, Errno> {
        let is_hole = |at: &usize| !self.pages.contains(&(at / PAGE));
        (at < self.bytes.len()).then_some(()).ok_or(Errno::ENXIO)?;
        Ok((at..self.bytes.len()).find(is_hole).unwrap_or(self.bytes.len()) as u64)
    }
}

fn check(steps: Vec<FileStep>) {
    let memory = SharedMemory::new().unwrap();
    let mut model = FileModel::default();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            FileStep::Write(at, len) => {
                let bytes: Vec<u8> = (0..len).map(|byte| (n + byte % 251) as u8).collect();
                assert_eq!(memory.writer().write(at as u64, &bytes), Ok(len));
                if len > 0 {
                    model.grow(at + len);
                    model.bytes[at..at + len].copy_from_slice(&bytes);
                    model.allocate(at, at + len);
                }
            }
            FileStep::Truncate(size) => {
                memory.writer().truncate(size as u64).unwrap();
                let before = model.bytes.len();
                model.bytes.resize(size, 0);
                if size < before {
                    model.pages.retain(|&page| !(size.div_ceil(PAGE)..before.div_ceil(PAGE)).contains(&page));
                }
            }
            FileStep::Punch(at, len) => {
                memory.writer().punch(at as u64..(at + len) as u64).unwrap();
                model.punch(at, at + len);
            }
            FileStep::Allocate(at, len, extends) => {
                memory.writer().allocate(at as u64..(at + len) as u64, extends).unwrap();
                model.allocate(at, at + len);
                if extends {
                    model.grow(at + len);
                }
            }
            FileStep::Read(at, len) => {
                let mut bytes = vec![0xff; len];
                let count = memory.read(at as u64, &mut bytes);
                let end = (at + len).min(model.bytes.len());
                assert_eq!(&bytes[..count], &model.bytes[at.min(end)..end]);
                assert_eq!(memory.next_data(at as u64), model.data_from(at), "{at}");
                assert_eq!(memory.next_hole(at as u64), model.hole_from(at), "{at}");
            }
        }
        assert_eq!((memory.size(), memory.pages()), (model.bytes.len() as u64, model.pages.len() as u64));
        assert_eq!(page_count(), memory.pages());
    }
}

#[test]
fn objects_match_a_model_and_release_their_frames() {
    host_memory::boot();
    // Frames that the first uses of the kernel keep, such as tables of the heap.
    check(vec![FileStep::Write(0, 1)]);
    let free = host_memory::free_frames();
    proptest!(ProptestConfig::with_cases(200), |(steps in prop::collection::vec(steps(), 1..60))| {
        check(steps);
        prop_assert_eq!((host_memory::free_frames(), page_count()), (free, 0));
    });

    // The limit.
    let memory = SharedMemory::new().unwrap();
    let bytes = page_limit() * PAGE_SIZE;
    assert_eq!(memory.writer().allocate(0..bytes + 1, true), Err(Errno::ENOSPC));
    assert_eq!((memory.pages(), memory.size()), (page_limit(), 0));
    assert_eq!(memory.writer().write(bytes - 2, b"abcd"), Ok(2));
    assert_eq!(memory.writer().write(bytes, b"cd"), Err(Errno::ENOSPC));
    assert_eq!(memory.with_page(page_limit(), |_| ()), Err(Errno::EFAULT));
    memory.writer().punch(PAGE_SIZE..2 * PAGE_SIZE).unwrap();
    assert_eq!(memory.with_page(1, |frame| frame.raw() % PAGE_SIZE), Ok(0));
    memory.writer().truncate(0).unwrap();
    assert_eq!((memory.pages(), memory.with_page(0, |_| ())), (0, Err(Errno::EFAULT)));

    // Seals.
    let sealed = SharedMemory::with_seals(Seals::empty()).unwrap();
    let truncate = |size| sealed.writer().truncate(size);
    sealed.writer().write(0, b"abcd").unwrap();
    sealed.writer().seal(Seals::GROW | Seals::SHRINK).unwrap();
    assert_eq!(sealed.writer().write(3, b"de"), Err(Errno::EPERM));
    assert_eq!((truncate(3), truncate(5)), (Err(Errno::EPERM), Err(Errno::EPERM)));
    assert_eq!(sealed.writer().allocate(0..5, true), Err(Errno::EPERM));
    assert_eq!(sealed.writer().write(0, b"ABCD"), Ok(4));
    sealed.writer().seal(Seals::WRITE | Seals::SEAL).unwrap();
    assert_eq!(sealed.writer().write(0, b"x"), Err(Errno::EPERM));
    assert_eq!(sealed.writer().punch(0..1), Err(Errno::EPERM));
    assert_eq!(sealed.writer().seal(Seals::GROW), Err(Errno::EPERM));
    drop(sealed);

    // The largest size.
    assert_eq!(memory.writer().truncate(SIZE_MAX + 1), Err(Errno::EFBIG));
    memory.writer().truncate(SIZE_MAX).unwrap();
    assert_eq!(memory.writer().write(SIZE_MAX - 1, b"ab"), Ok(1));
    assert_eq!(memory.writer().write(SIZE_MAX, b"b"), Err(Errno::EFBIG));
    assert_eq!(memory.read(SIZE_MAX - 1, &mut [0; 4]), 1);
    drop(memory);
    assert_eq!((host_memory::free_frames(), page_count()), (free, 0));
}
