//! A user-space driver for QEMU's `edu` device: its DMA engine copies within a scattered dma-heap buffer,
//! which no kernel maps and which is contiguous for the device.
//!
//! `edu-driver [DEVICE]`; the default is `/dev/vfio/devices/vfio0`. The function is left to user space by the
//! boot argument `vfio-pci.ids=1234:11e8`. `doc/user-space-drivers.md` explains the steps.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use abi::iommufd::*;
use abi::vfio::*;
use dmabuf::{Buffer, Heap, Protection, SYSTEM, View, request_with_size};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The engine reaches 28 bits of addresses.
const IOVA: u64 = 0x100_0000;
/// Not a power of two: the heap composes it of chunks of several sizes.
const BUFFER_BYTES: u64 = (100 << 20) + (12 << 10);

/// Registers in BAR 0.
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
/// The device's memory, for the engine.
const INTERNAL: u64 = 0x4_0000;
const INTERNAL_BYTES: u64 = 4096;
/// `COMMAND`: starts a copy; reads as set until it ends.
const START: u64 = 1;
/// `COMMAND`: from the device's memory.
const FROM_DEVICE: u64 = 2;
/// `COMMAND`: an interrupt at the end.
const INTERRUPT: u64 = 4;
/// Pending interrupts, and their acknowledgement: registers of 32 bits.
const STATUS: u64 = 0x24;
const ACKNOWLEDGE: u64 = 0x64;

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/dev/vfio/devices/vfio0".into());
    match run(&path) {
        Ok(0) => {
            println!("edu-driver: the buffer has no chunk borders");
            ExitCode::FAILURE
        }
        Ok(copies) => {
            println!("edu-driver: {copies} copies across chunk borders verified");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("edu-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn open(path: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn run(path: &str) -> io::Result<usize> {
    let (iommu, device) = (open("/dev/iommu")?, open(path)?);
    let space = attach(&iommu, &device)?;
    let buffer = Heap::open(SYSTEM)?.allocate(BUFFER_BYTES)?;
    map_buffer(&iommu, space, &buffer)?;
    enable_bus_master(&device)?;
    let registers = region(&device, 0)?;
    let engine = Engine {
        view: View::of_file(&device, registers.size as usize, Protection::ReadWrite)?,
        offset: registers.offset,
        interrupt: connect_interrupt(&device)?,
        device,
    };
    println!("edu-driver: waits by {}", if engine.interrupt.is_some() { "interrupt" } else { "polling" });
    copy_across_borders(&buffer, &buffer.map(Protection::ReadWrite)?, &engine)
}

/// The device.
struct Engine {
    device: File,
    /// The mapped registers.
    view: View,
    /// Their offset in the file.
    offset: u64,
    interrupt: Option<File>,
}

/// `VFIO_DEVICE_SET_IRQS` with one eventfd.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SetEventfd {
    set: IrqSet,
    fd: i32,
}

/// Connects the message of the device to an eventfd. `None` if the machine cannot pass it to user space.
fn connect_interrupt(device: &File) -> io::Result<Option<File>> {
    let mut info = IrqInfo { index: IRQ_MSI, ..IrqInfo::new_zeroed() };
    request_with_size(device, VFIO_DEVICE_GET_IRQ_INFO, &mut info)?;
    if info.count == 0 {
        return Ok(None);
    }
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor.
    let eventfd = unsafe { File::from_raw_fd(fd) };
    let flags = (IrqSetFlags::DATA_EVENTFD | IrqSetFlags::TRIGGER).bits();
    let set = IrqSet { argsz: 0, flags, index: IRQ_MSI, start: 0, count: 1 };
    request_with_size(device, VFIO_DEVICE_SET_IRQS, &mut SetEventfd { set, fd })?;
    Ok(Some(eventfd))
}

/// Binds the device to an iommufd, and attaches it to a new I/O address space, whose id is returned. From
/// then on the device reaches the memory that is mapped there, and nothing else.
fn attach(iommu: &File, device: &File) -> io::Result<u32> {
    let mut bind = BindIommufd { iommufd: iommu.as_raw_fd(), ..BindIommufd::new_zeroed() };
    request_with_size(device, VFIO_DEVICE_BIND_IOMMUFD, &mut bind)?;
    let mut space = IoasAlloc::new_zeroed();
    request_with_size(iommu, IOMMU_IOAS_ALLOC, &mut space)?;
    let mut attach = AttachIommufd { pt_id: space.out_ioas_id, ..AttachIommufd::new_zeroed() };
    request_with_size(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &mut attach)?;
    Ok(space.out_ioas_id)
}

/// Maps the whole buffer at [`IOVA`].
fn map_buffer(iommu: &File, space: u32, buffer: &Buffer) -> io::Result<()> {
    let flags = IoasMapFlags::FIXED_IOVA | IoasMapFlags::READABLE | IoasMapFlags::WRITEABLE;
    let fd = buffer.as_fd().as_raw_fd();
    let mut map = IoasMapFile {
        size: 0,
        flags: flags.bits(),
        ioas_id: space,
        fd,
        start: 0,
        length: buffer.bytes(),
        iova: IOVA,
    };
    request_with_size(iommu, IOMMU_IOAS_MAP_FILE, &mut map)
}

fn region(device: &File, index: u32) -> io::Result<RegionInfo> {
    let mut region = RegionInfo { index, ..RegionInfo::new_zeroed() };
    request_with_size(device, VFIO_DEVICE_GET_REGION_INFO, &mut region)?;
    Ok(region)
}

/// Sets the bus master bit of the command register.
fn enable_bus_master(device: &File) -> io::Result<()> {
    let command = region(device, REGION_CONFIG)?.offset + 4;
    let mut value = [0; 2];
    device.read_exact_at(&mut value, command)?;
    device.write_all_at(&[value[0] | 4, value[1]], command)
}

/// Lets the device copy a piece across each border of two chunks to the start of the buffer, and compares.
fn copy_across_borders(buffer: &Buffer, view: &View, engine: &Engine) -> io::Result<usize> {
    let mut border = 0;
    let mut copies = 0;
    for chunk in buffer.chunks()? {
        border += chunk.len;
        if border >= buffer.bytes() {
            break;
        }
        let from = border - INTERNAL_BYTES / 2;
        for word in (0..INTERNAL_BYTES).step_by(8) {
            view.set_word(((from + word) / 8) as usize, (from + word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        engine.copy(IOVA + from, INTERNAL, START)?;
        engine.copy(INTERNAL, IOVA, START | FROM_DEVICE)?;
        for word in (0..INTERNAL_BYTES).step_by(8) {
            let (copied, expected) =
                (view.word((word / 8) as usize), view.word(((from + word) / 8) as usize));
            if copied != expected {
                return Err(io::Error::other(format!(
                    "{copied:#x}, not {expected:#x}, from {:#x}",
                    from + word
                )));
            }
        }
        copies += 1;
    }
    Ok(copies)
}

impl Engine {
    /// Copies [`INTERNAL_BYTES`], and waits for the end.
    fn copy(&self, source: u64, destination: u64, command: u64) -> io::Result<()> {
        for (register, value) in [(SOURCE, source), (DESTINATION, destination), (COUNT, INTERNAL_BYTES)] {
            self.view.set_word(register / 8, value);
        }
        order_memory_and_registers();
        match &self.interrupt {
            Some(eventfd) => {
                self.view.set_word(COMMAND / 8, command | INTERRUPT);
                self.wait_for_interrupt(eventfd)?;
            }
            None => {
                self.view.set_word(COMMAND / 8, command);
                self.poll()?;
            }
        }
        order_memory_and_registers();
        Ok(())
    }

    fn wait_for_interrupt(&self, mut eventfd: &File) -> io::Result<()> {
        eventfd.read_exact(&mut [0; 8])?;
        let mut status = [0; 4];
        self.device.read_exact_at(&mut status, self.offset + STATUS)?;
        self.device.write_all_at(&status, self.offset + ACKNOWLEDGE)
    }

    fn poll(&self) -> io::Result<()> {
        let started = Instant::now();
        while self.view.word(COMMAND / 8) & START != 0 {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Orders accesses to memory and to registers: the engine reads all stores before its start, and loads after
/// its end return the bytes that it wrote. The device is in the outer shareable domain, which the fences of
/// `std` do not reach.
fn order_memory_and_registers() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
}
