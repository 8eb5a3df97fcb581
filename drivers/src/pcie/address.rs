//! Bus, device and function: the address of a function in configuration space and its requester ID.

use core::fmt;

/// A function's address. Its 16 bits are also the function's requester ID, unless a bridge upstream replaces
/// it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf(u16);

impl Bdf {
    /// Devices on a bus.
    pub const DEVICES: u8 = 32;
    /// Functions in a device.
    pub const FUNCTIONS: u8 = 8;

    /// The function with these numbers. Panics when `device` is 32 or more or `function` 8 or more.
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        assert!(device < Self::DEVICES && function < Self::FUNCTIONS);
        Self((bus as u16) << 8 | (device as u16) << 3 | function as u16)
    }
    /// The requester ID.
    pub const fn requester(self) -> u16 {
        self.0
    }
    /// The bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// The device number, below 32.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }
    /// The function number, below 8.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requester_id_encodes_bus_device_function() {
        let function = Bdf::new(0x81, 0x1f, 7);
        assert_eq!((function.requester(), function.to_string().as_str()), (0x81ff, "81:1f.7"));
        assert_eq!((function.bus(), function.device(), function.function()), (0x81, 0x1f, 7));
        assert_eq!(Bdf::new(0, 1, 0).requester(), 0x0008);
    }
}
