//! The console UART: `/chosen/stdout-path`, resolved through `/aliases`.

use super::{DeviceTree, NodeError, TreeNode};
use addr::{AddrRange, PhysAddr};
use drivers::interrupts::Interrupt;

const PL011: [&str; 2] = ["arm,pl011", "arm,sbsa-uart"];
const MINI_UART: [&str; 1] = ["brcm,bcm2835-aux-uart"];

/// The register interface of a UART.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UartKind {
    /// The Arm PL011 or the SBSA generic UART, a subset of it.
    Pl011,
    /// The mini UART of a BCM2835, which resembles an 8250.
    MiniUart,
}

/// A console UART.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// The register interface.
    pub kind: UartKind,
    pub registers: AddrRange<PhysAddr>,
    /// The interrupt, if there is a usable one.
    pub interrupt: Option<Interrupt>,
    /// The baud rate in `stdout-path`.
    pub baud: Option<u32>,
}

impl<'a> DeviceTree<'a> {
    /// The console named by `/chosen/stdout-path`; without that property, the first supported UART.
    pub fn console(&self) -> Result<Uart, NodeError> {
        let path = self
            .find("/chosen")
            .and_then(|chosen| chosen.text("stdout-path").or_else(|| chosen.text("linux,stdout-path")));
        match path {
            Some(path) => self.console_at(path),
            None => {
                let node = self.compatible(&PL011).next().or_else(|| self.compatible(&MINI_UART).next());
                self.uart(&node.ok_or(NodeError::Missing("stdout-path"))?, None)
            }
        }
    }

    fn console_at(&self, stdout: &str) -> Result<Uart, NodeError> {
        let (path, options) = stdout.split_once(':').unwrap_or((stdout, ""));
        let node = self.resolve(path).ok_or_else(|| NodeError::unsupported("stdout-path", stdout))?;
        let digits = options.find(|c: char| !c.is_ascii_digit()).unwrap_or(options.len());
        self.uart(&node, options[..digits].parse().ok())
    }

    /// The node at a path, or at the path of an alias.
    fn resolve(&self, path: &str) -> Option<TreeNode<'a>> {
        if path.starts_with('/') {
            return self.find(path);
        }
        self.find(self.find("/aliases")?.text(path)?)
    }

    fn uart(&self, node: &TreeNode<'a>, baud: Option<u32>) -> Result<Uart, NodeError> {
        let kind = match node {
            _ if node.is_compatible(&PL011) => UartKind::Pl011,
            _ if node.is_compatible(&MINI_UART) => UartKind::MiniUart,
            _ => return Err(NodeError::unsupported("compatible", node.text("compatible").unwrap_or(""))),
        };
        Ok(Uart { kind, registers: node.reg(0)?, interrupt: self.interrupt(node, 0).ok(), baud })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fixture;
    use super::*;
    use drivers::gic::{GicInterrupt, IntId, Trigger};

    fn console(stdout: Option<&str>) -> Result<Uart, NodeError> {
        let mut model = fixture::virt();
        let chosen = fixture::find(&mut model, "/chosen");
        chosen.remove_property("stdout-path");
        if let Some(path) = stdout {
            chosen.add_property(fixture::text("stdout-path", path));
        }
        let blob = model.to_dtb();
        DeviceTree::new(&blob).unwrap().console()
    }

    #[test]
    fn stdout_path_may_be_an_alias_with_a_baud_rate() {
        let uart = |baud| {
            let registers = AddrRange::from_len(PhysAddr::new(0x900_0000), 0x1000).unwrap();
            let interrupt = Some(GicInterrupt { id: IntId::spi(1), trigger: Trigger::Level }.into());
            Ok(Uart { kind: UartKind::Pl011, registers, interrupt, baud })
        };
        assert_eq!(console(None), uart(None));
        assert_eq!(console(Some("/pl011@9000000")), uart(None));
        assert_eq!(console(Some("serial0:115200n8")), uart(Some(115_200)));
        assert_eq!(console(Some("/pl011@9000000:99999999999")), uart(None));
    }

    #[test]
    fn missing_or_unsupported_console_is_an_error() {
        for path in ["serial1", "/nowhere", ""] {
            assert_eq!(console(Some(path)), Err(NodeError::unsupported("stdout-path", path)));
        }
        assert_eq!(console(Some("/timer")), Err(NodeError::unsupported("compatible", "arm,armv8-timer")));
    }
}
