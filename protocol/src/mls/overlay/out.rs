//! What postcard writes to.

use postcard::Result;
use postcard::ser_flavors::Flavor;
use zeroize::Zeroizing;

/// Grows into new memory only after the old was erased.
#[derive(Default)]
pub(super) struct Out(pub(super) Zeroizing<Vec<u8>>);

impl Out {
    #[inline]
    fn reserve(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() < more {
            self.grow(self.0.len() + more);
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().max(256)));
        larger.extend_from_slice(&self.0);
        self.0 = larger;
    }

    /// Appends so many zeros: where they begin.
    pub(super) fn make_room(&mut self, len: usize) -> usize {
        self.reserve(len);
        let start = self.0.len();
        self.0.resize(start + len, 0);
        start
    }
}

impl Flavor for Out {
    type Output = Zeroizing<Vec<u8>>;

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> Result<()> {
        self.reserve(data.len());
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> Result<()> {
        self.reserve(1);
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> Result<Self::Output> {
        Ok(self.0)
    }
}
