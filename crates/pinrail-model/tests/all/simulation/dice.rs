//! Chance that is the same on every machine: a seed gives one sequence, a place one number.

/// A sequence of numbers.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.roll() % (to - from + 1)
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, often: u64) -> bool {
        self.roll() % 100 < often
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The odd number next to 2^64 divided by the golden ratio: each step reaches a far place.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of a place, whatever was rolled before.
pub fn number_of(parts: &[u64]) -> u64 {
    parts.iter().fold(STEP, |sum, part| mix(sum ^ mix(part.wrapping_add(STEP))))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
