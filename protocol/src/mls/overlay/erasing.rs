//! Where secrets are encoded to.

use postcard::Result;
use postcard::ser_flavors::Flavor;
use zeroize::Zeroizing;

/// Grows into new memory only after the old was erased.
#[derive(Default)]
pub(super) struct Erasing(pub(super) Zeroizing<Vec<u8>>);

impl Flavor for Erasing {
    type Output = Zeroizing<Vec<u8>>;

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> Result<()> {
        let needed = self.0.len() + data.len();
        if needed > self.0.capacity() {
            let mut larger =
                Zeroizing::new(Vec::with_capacity(needed.next_power_of_two().max(256)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> Result<()> {
        if self.0.len() == self.0.capacity() {
            return self.try_extend(&[data]);
        }
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> Result<Self::Output> {
        Ok(self.0)
    }
}
