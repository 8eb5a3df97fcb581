//! The console: `/chosen/stdout-path`, through `/aliases`, to a UART.

use super::{Place, Reason, Tree};
use addr::{AddrRange, PhysAddr};
use drivers::interrupts::Interrupt;

const PL011: [&str; 2] = ["arm,pl011", "arm,sbsa-uart"];
const MINI_UART: [&str; 1] = ["brcm,bcm2835-aux-uart"];

/// Which registers a UART has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UartKind {
    /// Arm's PL011, or the part of it that SBSA asks for.
    Pl011,
    /// The 8250-like second UART of a BCM2835.
    MiniUart,
}

/// The UART that is the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// Its kind.
    pub kind: UartKind,
    /// Its registers.
    pub registers: AddrRange<PhysAddr>,
    /// Its interrupt, if it has a usable one.
    pub interrupt: Option<Interrupt>,
    /// The line speed that `stdout-path` asks for.
    pub baud: Option<u32>,
}

impl<'a> Tree<'a> {
    /// The console that `/chosen/stdout-path` names; without one, the first UART that is known.
    pub fn console(&self) -> Result<Uart, Reason> {
        let path = self
            .find("/chosen")
            .and_then(|chosen| chosen.text("stdout-path").or_else(|| chosen.text("linux,stdout-path")));
        match path {
            Some(path) => self.console_at(path),
            None => {
                let place = self.compatible(&PL011).next().or_else(|| self.compatible(&MINI_UART).next());
                self.uart(&place.ok_or(Reason::Missing("stdout-path"))?, None)
            }
        }
    }

    fn console_at(&self, stdout: &str) -> Result<Uart, Reason> {
        let (path, options) = stdout.split_once(':').unwrap_or((stdout, ""));
        let place = self.resolve(path).ok_or_else(|| Reason::unknown("stdout-path", stdout))?;
        let digits = options.find(|c: char| !c.is_ascii_digit()).unwrap_or(options.len());
        self.uart(&place, options[..digits].parse().ok())
    }

    /// The node at a path, or at the path that an alias stands for.
    fn resolve(&self, path: &str) -> Option<Place<'a>> {
        if path.starts_with('/') {
            return self.find(path);
        }
        self.find(self.find("/aliases")?.text(path)?)
    }

    fn uart(&self, place: &Place<'a>, baud: Option<u32>) -> Result<Uart, Reason> {
        let kind = match place {
            _ if place.is_compatible(&PL011) => UartKind::Pl011,
            _ if place.is_compatible(&MINI_UART) => UartKind::MiniUart,
            _ => return Err(Reason::unknown("compatible", place.text("compatible").unwrap_or(""))),
        };
        Ok(Uart { kind, registers: place.reg(0)?, interrupt: self.interrupt(place, 0).ok(), baud })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use drivers::gic::{self, IntId, Trigger};

    fn console(stdout: Option<&str>) -> Result<Uart, Reason> {
        let mut model = fixture::virt();
        let chosen = fixture::find(&mut model, "/chosen");
        chosen.remove_property("stdout-path");
        if let Some(path) = stdout {
            chosen.add_property(fixture::text("stdout-path", path));
        }
        let blob = model.to_dtb();
        Tree::new(&blob).unwrap().console()
    }

    #[test]
    fn the_path_may_be_an_alias_and_carry_a_speed() {
        let uart = |baud| {
            let registers = AddrRange::from_len(PhysAddr::new(0x900_0000), 0x1000).unwrap();
            let interrupt = Some(gic::Interrupt { id: IntId::spi(1), trigger: Trigger::Level }.into());
            Ok(Uart { kind: UartKind::Pl011, registers, interrupt, baud })
        };
        assert_eq!(console(None), uart(None));
        assert_eq!(console(Some("/pl011@9000000")), uart(None));
        assert_eq!(console(Some("serial0:115200n8")), uart(Some(115_200)));
        assert_eq!(console(Some("/pl011@9000000:99999999999")), uart(None));
    }

    #[test]
    fn a_console_that_is_not_there_is_named() {
        for path in ["serial1", "/nowhere", ""] {
            assert_eq!(console(Some(path)), Err(Reason::unknown("stdout-path", path)));
        }
        assert_eq!(console(Some("/timer")), Err(Reason::unknown("compatible", "arm,armv8-timer")));
    }
}
