//! The mailbox to a Raspberry Pi's firmware, and its property interface: a message of tags in memory, of which the firmware
//! replaces the values (raspberrypi/firmware wiki, "Mailbox property interface").
//!
//! The message is in coherent memory, and the firmware is told its bus address.

use crate::mmio::Mmio;
use core::fmt;
use core::mem::offset_of;
use dma_api::{Attrs, DmaBuffer, DmaError, DmaMask, DmaSpace};
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, WriteOnly};

/// Mailbox 0, which the firmware fills, and mailbox 1, which it empties.
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
/// The channel of the property interface, in the low bits of an address that is a multiple of 16.
const PROPERTIES: u32 = 8;
const CHANNEL_MASK: u32 = 0xf;

const REQUEST: u32 = 0;
const SUCCESS: u32 = 0x8000_0000;
/// In a tag's length once it has been answered.
const ANSWERED: u32 = 0x8000_0000;
/// Words of a value here; what the firmware says of a board has two.
const VALUE_WORDS: usize = 2;
/// Size, code, one tag (its number, room, length, value), end.
const MESSAGE_WORDS: usize = 2 + 3 + VALUE_WORDS + 1;

/// What the firmware can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tag {
    /// Its own version, as the time it was built, in seconds since 1970.
    FirmwareRevision,
    /// The board's revision code.
    BoardRevision,
    /// The board's serial number.
    BoardSerial,
    /// The memory that belongs to the CPUs: first address, length.
    ArmMemory,
}

impl Tag {
    fn number(self) -> u32 {
        match self {
            Self::FirmwareRevision => 0x0000_0001,
            Self::BoardRevision => 0x0001_0002,
            Self::BoardSerial => 0x0001_0004,
            Self::ArmMemory => 0x0001_0005,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailboxError {
    /// The mailbox stayed full, or empty.
    TimedOut,
    /// The message was refused with this code.
    Refused(u32),
    /// The firmware does not know the tag.
    Unanswered(Tag),
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

/// The mailbox and the message.
pub struct Mailbox {
    registers: Mmio<Registers>,
    message: DmaBuffer,
}

impl Mailbox {
    /// The mailbox with these registers, whose firmware sees memory through `space`.
    ///
    /// # Errors
    /// What the space says when it is asked for a page; [`DmaError::OutOfVmalloc`] if it cannot show it.
    pub fn new(registers: Mmio<Registers>, space: &dyn DmaSpace) -> Result<Self, DmaError> {
        space.set_mask(DmaMask::BITS_32)?;
        let message = space.alloc(MESSAGE_WORDS * 4, Attrs::empty())?;
        if message.kernel_view().is_none() {
            return Err(DmaError::OutOfVmalloc { len: message.len() as u64 });
        }
        Ok(Self { registers, message })
    }

    /// Asks for `tag` and waits for the answer, as long as `expired` says that there is time.
    ///
    /// # Errors
    /// [`MailboxError`]. After [`MailboxError::TimedOut`] the firmware may still write to the message.
    pub fn ask(
        &mut self,
        tag: Tag,
        mut expired: impl FnMut() -> bool,
    ) -> Result<[u32; VALUE_WORDS], MailboxError> {
        self.write(tag);
        let address = self.message.iova().raw() as u32 & !CHANNEL_MASK;
        wait(&mut expired, || self.registers.write_status.get() & FULL == 0)?;
        // The message is in memory before the firmware is told to look.
        arch::barrier::dsb_sy();
        self.registers.write.set(address | PROPERTIES);
        wait(&mut expired, || {
            self.registers.read_status.get() & EMPTY == 0 && self.registers.read.get() == address | PROPERTIES
        })?;
        arch::barrier::dsb_sy();
        self.read(tag)
    }

    fn write(&self, tag: Tag) {
        let size = (MESSAGE_WORDS * 4) as u32;
        let head = [size, REQUEST, tag.number(), (VALUE_WORDS * 4) as u32, REQUEST];
        let words = head.into_iter().chain([0; VALUE_WORDS + 1]);
        let view = self.message.kernel_view();
        view.iter().for_each(|view| {
            words.clone().enumerate().for_each(|(index, word)| view.write(index * 4, word));
        });
    }

    fn read(&self, tag: Tag) -> Result<[u32; VALUE_WORDS], MailboxError> {
        let Some(view) = self.message.kernel_view() else { unreachable!("`new` has seen it") };
        let word = |index: usize| view.read::<u32>(index * 4);
        match (word(1), word(4)) {
            (SUCCESS, length) if length & ANSWERED != 0 && length & !ANSWERED != 0 => {
                Ok(core::array::from_fn(|index| word(5 + index)))
            }
            (SUCCESS, _) => Err(MailboxError::Unanswered(tag)),
            (code, _) => Err(MailboxError::Refused(code)),
        }
    }
}

fn wait(expired: &mut impl FnMut() -> bool, is_there: impl Fn() -> bool) -> Result<(), MailboxError> {
    while !is_there() {
        if expired() {
            return Err(MailboxError::TimedOut);
        }
        core::hint::spin_loop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeRegisters;
    use addr::Iova;
    use dma_api::FakeSpace;

    /// A mailbox whose answer is there before the question: `expired` plays the firmware.
    fn ask(answer: impl Fn(&FakeSpace, u32)) -> Result<[u32; 2], MailboxError> {
        let (fake, space) = (FakeRegisters::new(0x40), FakeSpace::new());
        let mut mailbox = Mailbox::new(fake.mmio(), &space).unwrap();
        fake.set32(0x18, EMPTY);
        let mut asked = 0;
        mailbox.ask(Tag::BoardSerial, || {
            asked += 1;
            let told = fake.get32(0x20);
            assert_eq!(told & 0xf, 8);
            answer(&space, told & !0xf);
            fake.set32(0, told);
            fake.set32(0x18, 0);
            asked > 1
        })
    }

    fn write(space: &FakeSpace, at: u32, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        space.device_write(Iova::new(at.into()), &bytes).unwrap();
    }

    #[test]
    fn a_message_has_one_tag_and_an_end() {
        let answer = ask(|space, at| {
            let mut bytes = [0; MESSAGE_WORDS * 4];
            space.device_read(Iova::new(at.into()), &mut bytes).unwrap();
            let words: Vec<u32> =
                bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
            assert_eq!(words, [32, 0, 0x1_0004, 8, 0, 0, 0, 0]);
            write(space, at, &[32, SUCCESS, 0x1_0004, 8, ANSWERED | 8, 0x1234_5678, 0x9abc]);
        });
        assert_eq!(answer, Ok([0x1234_5678, 0x9abc]));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let refused = ask(|space, at| write(space, at, &[32, 0x8000_0001]));
        assert_eq!(refused, Err(MailboxError::Refused(0x8000_0001)));
        for length in [0, ANSWERED] {
            let unknown = ask(|space, at| write(space, at, &[32, SUCCESS, 0x1_0004, 8, length]));
            assert_eq!(unknown, Err(MailboxError::Unanswered(Tag::BoardSerial)));
        }
        let fake = FakeRegisters::new(0x40);
        let mut mailbox = Mailbox::new(fake.mmio(), &FakeSpace::new()).unwrap();
        fake.set32(0x38, FULL);
        assert_eq!(mailbox.ask(Tag::ArmMemory, || true), Err(MailboxError::TimedOut));
        assert_eq!(fake.get32(0x20), 0, "nothing was sent");
    }
}
