//! [`FakeSpace`] detects driver bugs.

use addr::{Iova, PAGE_SIZE};
use dma_api::{Attrs, Direction, DmaError, DmaMask, DmaSpace, FakeFault, FakeMemory, FakeSpace};

#[test]
fn coherent_buffer_is_shared_and_zeroed() {
    let space = FakeSpace::new();
    let buffer = space.alloc(100, Attrs::empty()).unwrap();
    assert_eq!(buffer.len(), PAGE_SIZE as usize);
    let view = buffer.kernel_view().unwrap();
    let mut bytes = [1; 8];
    space.device_read(buffer.iova(), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8]);
    view.write(8, 0x1234u16.to_le());
    space.device_read(buffer.iova() + 8, &mut bytes[..2]).unwrap();
    assert_eq!(bytes[..2], [0x34, 0x12]);
    space.device_write(buffer.iova() + 16, &[7, 8]).unwrap();
    assert_eq!(view.read::<[u8; 2]>(16), [7, 8]);
    let mut chunks = 0;
    buffer.chunks(|_| chunks += 1);
    assert_eq!(chunks, 1);
}

#[test]
fn device_faults_one_byte_past_the_end_and_after_free() {
    let space = FakeSpace::new();
    let buffer = space.alloc(1, Attrs::empty()).unwrap();
    let (iova, end) = (buffer.iova(), buffer.iova() + PAGE_SIZE);
    let neighbour = space.alloc(1, Attrs::empty()).unwrap();
    assert_eq!(space.device_write(end, &[1]), Err(FakeFault(end)));
    assert_eq!(space.device_write(iova + 0xfff, &[1, 2]), Err(FakeFault(end)));
    assert_eq!(space.device_read(Iova::new(0), &mut [0]), Err(FakeFault(Iova::new(0))));
    drop(buffer);
    assert_eq!(space.device_read(iova, &mut [0]), Err(FakeFault(iova)));
    assert_eq!(space.mapping_count(), 1);
    drop(neighbour);
    assert_eq!(space.mapping_count(), 0);
}

#[test]
fn no_kernel_mapping_buffer_has_no_view() {
    let buffer = FakeSpace::new().alloc(1, Attrs::NO_KERNEL_MAPPING).unwrap();
    assert!(buffer.kernel_view().is_none());
}

#[test]
fn streaming_data_is_visible_only_after_a_sync() {
    let space = FakeSpace::new();
    let stream = space.map(FakeMemory::new(b"to the device"), Direction::Bidirectional).unwrap();
    let mut seen = [0; 13];
    space.device_read(stream.iova(), &mut seen).unwrap();
    assert_eq!(&seen, b"to the device");

    space.device_write(stream.iova(), b"back").unwrap();
    let iova = stream.iova();
    let mut stream = stream.sync_for_cpu();
    assert_eq!(stream.bytes().unwrap(), b"backhe device");
    stream.bytes().unwrap()[0] = b'p';
    space.device_read(iova, &mut seen[..4]).unwrap();
    assert_eq!(&seen[..4], b"back", "not synced for the device yet");
    let stream = stream.sync_for_device();
    space.device_read(iova, &mut seen[..4]).unwrap();
    assert_eq!(&seen[..4], b"pack");

    space.device_write(iova, b"last").unwrap();
    let mut memory = stream.unmap().unwrap();
    assert_eq!(memory.bytes().unwrap(), b"lasthe device");
    assert_eq!((space.mapping_count(), space.device_read(iova, &mut seen)), (0, Err(FakeFault(iova))));
}

#[test]
fn dropped_stream_is_unmapped() {
    let space = FakeSpace::new();
    let stream = space.map(FakeMemory::new(b"data"), Direction::ToDevice).unwrap();
    assert_eq!((stream.len(), stream.is_empty(), space.mapping_count()), (4, false, 1));
    let iova = stream.iova();
    drop(stream);
    assert_eq!((space.mapping_count(), space.device_read(iova, &mut [0])), (0, Err(FakeFault(iova))));
    drop(space.map(FakeMemory::new(b"data"), Direction::FromDevice).unwrap().sync_for_cpu());
    assert_eq!(space.mapping_count(), 0);
}

#[test]
fn direction_limits_device_access_and_copies() {
    let space = FakeSpace::new();
    let to = space.map(FakeMemory::new(b"secret"), Direction::ToDevice).unwrap();
    assert_eq!(space.device_write(to.iova(), b"x"), Err(FakeFault(to.iova())));
    let from = space.map(FakeMemory::new(b"secret"), Direction::FromDevice).unwrap();
    assert_eq!(space.device_read(from.iova(), &mut [0]), Err(FakeFault(from.iova())));
    space.device_write(from.iova(), b"public").unwrap();
    assert_eq!(from.unmap().unwrap().bytes().unwrap(), b"public");
}

#[test]
fn mask_and_injected_failures_return_errors_without_leaks() {
    let space = FakeSpace::new();
    assert_eq!(space.alloc(0, Attrs::empty()).unwrap_err(), DmaError::ZeroLength);
    let refused = space.map(FakeMemory::zeroed(0), Direction::ToDevice).unwrap_err();
    assert_eq!(refused.error, DmaError::ZeroLength);
    space.set_mask(DmaMask::bits(13)).unwrap();
    let highest = DmaMask::bits(13).highest();
    let error = space.alloc(0x2000, Attrs::empty()).unwrap_err();
    assert_eq!(error, DmaError::OutOfIova { len: 0x2000, highest });
    space.fail_after(1, DmaError::OutOfTables);
    let kept = space.alloc(0x1000, Attrs::empty()).unwrap();
    let mut refused = space.map(FakeMemory::new(b"mine"), Direction::ToDevice).unwrap_err();
    assert_eq!(refused.error, DmaError::OutOfTables);
    assert_eq!(refused.memory.bytes().unwrap(), b"mine");
    assert_eq!(space.mapping_count(), 1);
    drop(kept);
}
