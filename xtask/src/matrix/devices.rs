//! Devices of the machines, as QEMU arguments.

/// A root port, a PCIe-to-PCI bridge and a PCI bridge: three more buses before edu.
pub const BEHIND_BRIDGES: &[&str] = &[
    "-device",
    "pcie-root-port,id=rp0,chassis=1",
    "-device",
    "pcie-pci-bridge,id=br0,bus=rp0",
    "-device",
    "pci-bridge,id=br1,bus=br0,chassis_nr=2,addr=2",
    "-device",
    "edu,bus=br1,addr=3",
];

/// An SMMU without stage 1 (the machine sets the stage itself from `virt-9.2` on).
pub const STAGE2_ONLY: &[&str] = &["-global", "arm-smmuv3.stage=2", "-device", "edu"];

/// A second PCI root that the device tree does not describe: its buses start at 128. It accepts only a port.
pub const SECOND_ROOT: &[&str] = &[
    "-device",
    "pxb-pcie,bus_nr=128,id=px",
    "-device",
    "pcie-root-port,id=rp0,bus=px,chassis=1",
    "-device",
    "edu,bus=rp0",
];

/// The same, bypassing the SMMU.
pub const BYPASSED_ROOT: &[&str] = &[
    "-device",
    "pxb-pcie,bus_nr=128,id=px,bypass_iommu=on",
    "-device",
    "pcie-root-port,id=rp0,bus=px,chassis=1",
    "-device",
    "edu,bus=rp0",
];

/// Three NUMA nodes, two of them with CPUs, and their distances.
pub const NUMA: &[&str] = &[
    "-object",
    "memory-backend-ram,id=m0,size=512M",
    "-object",
    "memory-backend-ram,id=m1,size=1G",
    "-object",
    "memory-backend-ram,id=m2,size=512M",
    "-numa",
    "node,nodeid=0,cpus=0-1,memdev=m0",
    "-numa",
    "node,nodeid=1,cpus=2-3,memdev=m1",
    "-numa",
    "node,nodeid=2,memdev=m2",
    "-numa",
    "dist,src=0,dst=1,val=20",
    "-numa",
    "dist,src=0,dst=2,val=40",
    "-numa",
    "dist,src=1,dst=2,val=30",
    "-device",
    "edu",
];

/// RAM that the host does not reserve: pages that are never touched cost nothing.
pub const UNRESERVED_300G: &[&str] =
    &["-object", "memory-backend-ram,id=ram,size=300G,reserve=off", "-device", "edu"];

/// A device whose DMA mask covers all of RAM.
pub const WIDE_EDU: &[&str] = &["-device", "edu,dma_mask=0xffffffffffffffff"];

/// Two devices that can share a buffer.
pub const TWO_EDUS: &[&str] = &["-device", "edu", "-device", "edu"];

/// Two devices that can share a buffer, on a machine whose clock counts instructions.
pub const COUNTING_CLOCK: &[&str] = &["-device", "edu", "-device", "edu", "-icount", "shift=0,sleep=off"];

/// A device whose DMA mask covers all of RAM, on a machine whose clock counts instructions.
pub const LEFT_RUNNING: &[&str] =
    &["-device", "edu,dma_mask=0xffffffffffffffff", "-icount", "shift=0,sleep=off"];
