//! Commands of the ITS (IHI 0069, 5.3).

use addr::PhysAddr;

/// Number of 64-bit words of a command.
pub(super) const WORDS: usize = 4;

/// A CPU's redistributor in a command: its address or its number, by GITS_TYPER.PTA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RdBase(pub(super) u64);

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItsCommand {
    /// MAPD: connects a device to its interrupt translation table of `1 << event_bits` entries.
    MapDevice {
        /// DeviceID.
        device: u32,
        /// log2 of the number of entries.
        event_bits: u8,
        /// Address of the table.
        itt: PhysAddr,
    },
    /// MAPD without valid bit: the ITS no longer uses the device's table.
    UnmapDevice {
        /// DeviceID.
        device: u32,
    },
    /// MAPC: connects a collection to a CPU.
    MapCollection {
        /// ICID.
        collection: u16,
        /// The CPU.
        target: RdBase,
    },
    /// MAPTI: translates an event to an LPI, in a collection.
    MapEvent {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
        /// INTID of the LPI.
        lpi: u32,
        /// ICID.
        collection: u16,
    },
    /// MOVI: moves an event, and its LPI if it is pending, to another collection.
    MoveEvent {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
        /// ICID.
        collection: u16,
    },
    /// DISCARD: removes the translation and the pending state of an event.
    Discard {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// INV: rereads the configuration of an event's LPI.
    Invalidate {
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// INVALL: rereads the configuration of all LPIs of a collection.
    InvalidateAll {
        /// ICID.
        collection: u16,
    },
    /// SYNC: completes the effects of all earlier commands at a CPU.
    Sync {
        /// The CPU.
        target: RdBase,
    },
}

const VALID: u64 = 1 << 63;

impl ItsCommand {
    /// The words of the command.
    pub fn encode(self) -> [u64; WORDS] {
        let first = |number: u64, device: u32| number | u64::from(device) << 32;
        let event_command = |number, device, event: u32| [first(number, device), u64::from(event), 0, 0];
        match self {
            Self::MapDevice { device, event_bits, itt } => {
                [first(0x08, device), u64::from(event_bits - 1), VALID | itt.raw(), 0]
            }
            Self::UnmapDevice { device } => [first(0x08, device), 0, 0, 0],
            Self::MapCollection { collection, target } => {
                [0x09, 0, VALID | target.0 << 16 | u64::from(collection), 0]
            }
            Self::MapEvent { device, event, lpi, collection } => {
                [first(0x0a, device), u64::from(event) | u64::from(lpi) << 32, u64::from(collection), 0]
            }
            Self::MoveEvent { device, event, collection } => {
                [first(0x01, device), u64::from(event), u64::from(collection), 0]
            }
            Self::Discard { device, event } => event_command(0x0f, device, event),
            Self::Invalidate { device, event } => event_command(0x0c, device, event),
            Self::InvalidateAll { collection } => [0x0d, 0, u64::from(collection), 0],
            Self::Sync { target } => [0x05, 0, target.0 << 16, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_in_the_manual() {
        let target = RdBase(0x80a);
        let (device, event, collection) = (0x1_0008, 0x21, 3);
        let itt = PhysAddr::new(0x4123_4500);
        for (command, words) in [
            (
                ItsCommand::MapDevice { device, event_bits: 8, itt },
                [0x1_0008_0000_0008, 7, 1 << 63 | 0x4123_4500, 0],
            ),
            (ItsCommand::UnmapDevice { device }, [0x1_0008_0000_0008, 0, 0, 0]),
            (ItsCommand::MapCollection { collection, target }, [9, 0, 1 << 63 | 0x80a_0003, 0]),
            (
                ItsCommand::MapEvent { device, event, lpi: 0x2001, collection },
                [0x1_0008_0000_000a, 0x2001_0000_0021, 3, 0],
            ),
            (ItsCommand::MoveEvent { device, event, collection }, [0x1_0008_0000_0001, 0x21, 3, 0]),
            (ItsCommand::Discard { device, event }, [0x1_0008_0000_000f, 0x21, 0, 0]),
            (ItsCommand::Invalidate { device, event }, [0x1_0008_0000_000c, 0x21, 0, 0]),
            (ItsCommand::InvalidateAll { collection }, [0xd, 0, 3, 0]),
            (ItsCommand::Sync { target }, [5, 0, 0x80a_0000, 0]),
        ] {
            assert_eq!(command.encode(), words, "{command:?}");
        }
    }
}
