//! One value per CPU, reached by index.

pub use arch::cpu::MAX_CPUS;

/// One `T` for each CPU. Other CPUs can read it too, so `T` is an atomic or a lock.
pub struct PerCpu<T>([T; MAX_CPUS]);

impl<T> PerCpu<T> {
    /// Wraps the values, CPU 0 first.
    pub const fn new(values: [T; MAX_CPUS]) -> Self {
        Self(values)
    }

    /// The value of the CPU this runs on. The caller may move to another CPU unless interrupts are masked or it
    /// stays inside the kernel (which is not preemptible).
    pub fn this(&self) -> &T {
        &self.0[arch::cpu::index()]
    }

    /// The value of CPU `index`.
    pub fn of(&self, index: usize) -> &T {
        &self.0[index]
    }

    /// All values, CPU 0 first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}
