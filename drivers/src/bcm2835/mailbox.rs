//! The mailbox to a Raspberry Pi's firmware, and its property interface: a message of tags in memory, whose
//! values the firmware replaces (raspberrypi/firmware wiki, "Mailbox property interface").
//!
//! The message is in coherent memory; the firmware gets its bus address.

use crate::mmio::{Mmio, ReadOnly};
use crate::poll::{TimedOut, poll_until};
use addr::PhysAddr;
use core::fmt;
use core::mem::offset_of;
use dma_api::{Attrs, DmaBuffer, DmaError, DmaMask, DmaSpace, KernelView};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::WriteOnly;

/// Mailbox 0 (from the firmware) and mailbox 1 (to the firmware).
#[repr(C)]
pub struct Registers {
    read: ReadOnly<u32>,
    after_read: [u32; 5],
    read_status: ReadOnly<u32>,
    after_read_status: u32,
    write: WriteOnly<u32>,
    after_write: [u32; 5],
    write_status: ReadOnly<u32>,
}
const _: () = assert!(offset_of!(Registers, read_status) == 0x18);
const _: () = assert!(offset_of!(Registers, write) == 0x20 && offset_of!(Registers, write_status) == 0x38);

const EMPTY: u32 = 1 << 30;
const FULL: u32 = 1 << 31;
/// Channel of the property interface, in the low bits of an address that is a multiple of 16.
const PROPERTIES: u32 = 8;
const CHANNEL_MASK: u32 = 0xf;

const REQUEST: u32 = 0;
const SUCCESS: u32 = 0x8000_0000;
/// Response bit in a tag's length.
const ANSWERED: u32 = 0x8000_0000;
/// Words of a value; the tags used here have no more.
const VALUE_WORDS: usize = 2;
/// A tag in a message: number, value buffer size, length, value.
const TAG_WORDS: usize = 3 + VALUE_WORDS;
/// Size and code before the tags.
const HEAD_WORDS: usize = 2;
/// Maximum number of tags in a message.
const MOST_TAGS: usize = 8;
/// The last word is the end tag.
const MESSAGE_WORDS: usize = HEAD_WORDS + MOST_TAGS * TAG_WORDS + 1;

/// Alias bits in bus addresses of memory that the firmware does not cache.
const ALIAS: u32 = 0xc000_0000;

/// A property of the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PropertyTag {
    /// Firmware version: build time in seconds since 1970.
    FirmwareRevision,
    /// The board's revision code.
    BoardRevision,
    /// The board's serial number.
    BoardSerial,
    /// The CPUs' part of memory: first address, length.
    ArmMemory,
    /// Size of the display in pixels: width, height.
    SetPhysicalSize,
    /// Size of the framebuffer in pixels: width, height.
    SetVirtualSize,
    /// Bits per pixel.
    SetDepth,
    /// Pixel order; 1: red first.
    SetPixelOrder,
    /// Framebuffer allocation: alignment in, bus address and length out.
    AllocateFramebuffer,
    /// Bytes per line.
    Pitch,
}

impl PropertyTag {
    fn number(self) -> u32 {
        match self {
            Self::FirmwareRevision => 0x0000_0001,
            Self::BoardRevision => 0x0001_0002,
            Self::BoardSerial => 0x0001_0004,
            Self::ArmMemory => 0x0001_0005,
            Self::SetPhysicalSize => 0x0004_8003,
            Self::SetVirtualSize => 0x0004_8004,
            Self::SetDepth => 0x0004_8005,
            Self::SetPixelOrder => 0x0004_8006,
            Self::AllocateFramebuffer => 0x0004_0001,
            Self::Pitch => 0x0004_0008,
        }
    }
}

/// The firmware did not answer a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailboxError {
    /// The mailbox remained full, or empty.
    TimedOut,
    /// The firmware refused the message with this code.
    Refused(u32),
    /// The firmware does not know the tag.
    Unanswered(PropertyTag),
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => write!(f, "the firmware does not answer"),
            Self::Refused(code) => write!(f, "the firmware refuses: {code:#x}"),
            Self::Unanswered(tag) => write!(f, "the firmware does not know {tag:?}"),
        }
    }
}

impl core::error::Error for MailboxError {}

impl From<TimedOut> for MailboxError {
    fn from(TimedOut: TimedOut) -> Self {
        Self::TimedOut
    }
}

/// A framebuffer with 32 bits per pixel, red in the lowest eight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framebuffer {
    /// Its physical address, outside of the CPUs' part of memory.
    pub start: PhysAddr,
    /// Its length in bytes, enough for all lines.
    pub len: u64,
    /// Bytes between the starts of two lines.
    pub pitch: u64,
    /// Pixels per line.
    pub width: u32,
    /// Number of lines.
    pub height: u32,
}

/// The mailbox and its message buffer.
pub struct Mailbox {
    registers: Mmio<Registers>,
    message: DmaBuffer,
}

impl Mailbox {
    /// The mailbox with these registers; the message buffer comes from `space`.
    ///
    /// # Errors
    /// Errors of the allocation of a page; [`DmaError::OutOfVmalloc`] without a kernel mapping of it.
    pub fn new(registers: Mmio<Registers>, space: &dyn DmaSpace) -> Result<Self, DmaError> {
        space.set_mask(DmaMask::BITS_32)?;
        let message = space.alloc(MESSAGE_WORDS * 4, Attrs::empty())?;
        if message.kernel_view().is_none() {
            return Err(DmaError::OutOfVmalloc { len: message.len() as u64 });
        }
        Ok(Self { registers, message })
    }

    /// Reads a property. Waits for the answer until `expired` returns true.
    ///
    /// # Errors
    /// [`MailboxError`]. After [`MailboxError::TimedOut`] the firmware may still write to the message buffer.
    pub fn get_property(
        &mut self,
        tag: PropertyTag,
        expired: impl FnMut() -> bool,
    ) -> Result<[u32; VALUE_WORDS], MailboxError> {
        let [answer] = self.exchange([(tag, [0; VALUE_WORDS])], expired)?;
        Ok(answer)
    }

    /// Allocates a framebuffer of this size. One message sets all properties, since the firmware ignores an
    /// incomplete set.
    ///
    /// # Errors
    /// As [`get_property`](Self::get_property); [`MailboxError::Unanswered`] also for a framebuffer that is
    /// too small.
    pub fn framebuffer(
        &mut self,
        width: u32,
        height: u32,
        expired: impl FnMut() -> bool,
    ) -> Result<Framebuffer, MailboxError> {
        let answers = self.exchange(
            [
                (PropertyTag::SetPhysicalSize, [width, height]),
                (PropertyTag::SetVirtualSize, [width, height]),
                (PropertyTag::SetDepth, [32, 0]),
                (PropertyTag::SetPixelOrder, [1, 0]),
                (PropertyTag::AllocateFramebuffer, [4096, 0]),
                (PropertyTag::Pitch, [0, 0]),
            ],
            expired,
        )?;
        let [[width, height], _, _, _, [base, len], [pitch, _]] = answers;
        let (start, len, pitch) = (PhysAddr::new((base & !ALIAS).into()), u64::from(len), u64::from(pitch));
        let fits = pitch >= u64::from(width) * 4 && pitch * u64::from(height) <= len;
        match start.raw() != 0 && fits {
            true => Ok(Framebuffer { start, len, pitch, width, height }),
            false => Err(MailboxError::Unanswered(PropertyTag::AllocateFramebuffer)),
        }
    }

    /// Sends the tags with these values, and returns the firmware's values.
    fn exchange<const N: usize>(
        &mut self,
        tags: [(PropertyTag, [u32; VALUE_WORDS]); N],
        mut expired: impl FnMut() -> bool,
    ) -> Result<[[u32; VALUE_WORDS]; N], MailboxError> {
        const { assert!(N <= MOST_TAGS) };
        self.write(&tags);
        let address = self.message.iova().raw() as u32 & !CHANNEL_MASK;
        poll_until(&mut expired, || (self.registers.write_status.get() & FULL == 0).then_some(()))?;
        // The message must be in memory before the firmware reads it.
        arch::barrier::dsb_sy();
        self.registers.write.set(address | PROPERTIES);
        poll_until(&mut expired, || {
            let is_empty = self.registers.read_status.get() & EMPTY != 0;
            (!is_empty && self.registers.read.get() == address | PROPERTIES).then_some(())
        })?;
        arch::barrier::dsb_sy();
        let mut answers = [[0; VALUE_WORDS]; N];
        for (index, ((tag, _), answer)) in tags.iter().zip(&mut answers).enumerate() {
            *answer = self.read(index, *tag)?;
        }
        Ok(answers)
    }

    fn view(&self) -> KernelView<'_> {
        match self.message.kernel_view() {
            Some(view) => view,
            None => unreachable!("checked by `new`"),
        }
    }

    fn write(&self, tags: &[(PropertyTag, [u32; VALUE_WORDS])]) {
        let size = ((HEAD_WORDS + tags.len() * TAG_WORDS + 1) * 4) as u32;
        let of = |(tag, [first, second]): &(PropertyTag, [u32; VALUE_WORDS])| {
            [tag.number(), (VALUE_WORDS * 4) as u32, REQUEST, *first, *second]
        };
        let words = [size, REQUEST].into_iter().chain(tags.iter().flat_map(of)).chain([0]);
        let view = self.view();
        words.enumerate().for_each(|(index, word)| view.write(index * 4, word));
    }

    fn read(&self, index: usize, tag: PropertyTag) -> Result<[u32; VALUE_WORDS], MailboxError> {
        let view = self.view();
        let word = |index: usize| view.read::<u32>(index * 4);
        let at = HEAD_WORDS + index * TAG_WORDS;
        match (word(1), word(at + 2)) {
            (SUCCESS, length) if length & ANSWERED != 0 && length & !ANSWERED != 0 => {
                Ok(core::array::from_fn(|index| word(at + 3 + index)))
            }
            (SUCCESS, _) => Err(MailboxError::Unanswered(tag)),
            (code, _) => Err(MailboxError::Refused(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use addr::Iova;
    use dma_api::FakeSpace;

    /// Runs `request` with a mailbox whose firmware answers by `answer`.
    fn with<R>(
        answer: impl Fn(&FakeSpace, u32),
        request: impl FnOnce(&mut Mailbox, &mut dyn FnMut() -> bool) -> R,
    ) -> R {
        let (fake, space) = (FakeRegisters::new(0x40), FakeSpace::new());
        let mut mailbox = Mailbox::new(fake.mmio(), &space).unwrap();
        fake.set32(0x18, EMPTY);
        let mut asked = 0;
        request(&mut mailbox, &mut || {
            asked += 1;
            let told = fake.get32(0x20);
            assert_eq!(told & 0xf, 8);
            answer(&space, told & !0xf);
            fake.set32(0, told);
            fake.set32(0x18, 0);
            asked > 1
        })
    }

    fn board_serial(answer: impl Fn(&FakeSpace, u32)) -> Result<[u32; 2], MailboxError> {
        with(answer, |mailbox, expired| mailbox.get_property(PropertyTag::BoardSerial, expired))
    }

    #[test]
    fn framebuffer_is_allocated_by_one_message() {
        let picture = |base: u32, len: u32, pitch: u32| {
            let answer = move |space: &FakeSpace, at: u32| {
                let tag = |number: u32, first: u32, second: u32| [number, 8, ANSWERED | 8, first, second];
                let tags = [
                    tag(0x4_8003, 640, 480),
                    tag(0x4_8004, 640, 480),
                    tag(0x4_8005, 32, 0),
                    tag(0x4_8006, 1, 0),
                    tag(0x4_0001, base, len),
                    tag(0x4_0008, pitch, 0),
                ];
                write(space, at, &[&[132, SUCCESS][..], tags.as_flattened(), &[0]].concat());
            };
            with(answer, |mailbox, expired| mailbox.framebuffer(640, 480, expired))
        };
        let expected = Framebuffer {
            start: PhysAddr::new(0x3c10_0000),
            len: 1_228_800,
            pitch: 2560,
            width: 640,
            height: 480,
        };
        assert_eq!(picture(0x3c10_0000, 1_228_800, 2560), Ok(expected));
        assert_eq!(picture(0xfc10_0000, 1_228_800, 2560), Ok(expected), "an alias of the same memory");
        let none = Err(MailboxError::Unanswered(PropertyTag::AllocateFramebuffer));
        assert_eq!(picture(0, 1_228_800, 2560), none);
        assert_eq!(picture(0x3c10_0000, 1_228_799, 2560), none);
        assert_eq!(picture(0x3c10_0000, 1_228_800, 2556), none);
    }

    fn write(space: &FakeSpace, at: u32, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        space.device_write(Iova::new(at.into()), &bytes).unwrap();
    }

    #[test]
    fn message_has_one_tag_and_an_end_tag() {
        let answer = board_serial(|space, at| {
            let mut bytes = [0; 32];
            space.device_read(Iova::new(at.into()), &mut bytes).unwrap();
            let words: Vec<u32> =
                bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
            assert_eq!(words, [32, 0, 0x1_0004, 8, 0, 0, 0, 0]);
            write(space, at, &[32, SUCCESS, 0x1_0004, 8, ANSWERED | 8, 0x1234_5678, 0x9abc]);
        });
        assert_eq!(answer, Ok([0x1234_5678, 0x9abc]));
    }

    #[test]
    fn invalid_answer_is_an_error() {
        let refused = board_serial(|space, at| write(space, at, &[32, 0x8000_0001]));
        assert_eq!(refused, Err(MailboxError::Refused(0x8000_0001)));
        for length in [0, ANSWERED] {
            let unknown = board_serial(|space, at| write(space, at, &[32, SUCCESS, 0x1_0004, 8, length]));
            assert_eq!(unknown, Err(MailboxError::Unanswered(PropertyTag::BoardSerial)));
        }
        let fake = FakeRegisters::new(0x40);
        let mut mailbox = Mailbox::new(fake.mmio(), &FakeSpace::new()).unwrap();
        fake.set32(0x38, FULL);
        assert_eq!(mailbox.get_property(PropertyTag::ArmMemory, || true), Err(MailboxError::TimedOut));
        assert_eq!(fake.get32(0x20), 0, "nothing was sent");
    }
}
