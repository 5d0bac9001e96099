//! Powers and logarithms of two in whole numbers.
//!
//! The same result on every machine and with every compiler, which floating point does not promise: where a copy goes
//! must not depend on which tracker has decided it.

use std::time::Duration;

/// Fractions here have this many bits.
const FRACTION_BITS: u32 = 32;

/// Steps of a half-life's fraction: beyond these, a factor differs from one by less than the rest of the arithmetic.
const STEPS: usize = 16;

/// `2^(-1/2)`, `2^(-1/4)`, … with [`FRACTION_BITS`] bits: each is the square root of the one before.
const ROOTS: [u64; STEPS] = {
    let mut roots = [0; STEPS];
    let mut root = 1_u64 << (FRACTION_BITS - 1);
    let mut at = 0;
    while at < STEPS {
        root = (root << FRACTION_BITS).isqrt();
        roots[at] = root;
        at += 1;
    }
    roots
};

/// What is left of a value that halves with every half-life.
pub(super) fn decayed(value: u64, age: Duration, half_life: Duration) -> u64 {
    let half_life = half_life.as_millis().max(1);
    let age = age.as_millis();
    let Some(whole) = u32::try_from(age / half_life).ok().filter(|whole| *whole < u64::BITS) else { return 0 };
    let fraction = ((age % half_life) << STEPS) / half_life;
    let mut left = u128::from(value >> whole);
    for (at, root) in ROOTS.iter().enumerate() {
        if fraction >> (STEPS - 1 - at) & 1 == 1 {
            left = (left * u128::from(*root)) >> FRACTION_BITS;
        }
    }
    // No factor is above one.
    left as u64
}

/// `-log2(x / 2^64)` with [`FRACTION_BITS`] bits of fraction: at least the smallest such number, at most 64.
///
/// Bit by bit: squaring a number between one and two doubles its logarithm, whose whole part is the next bit.
pub(super) fn negative_log2(x: u64) -> u64 {
    let x = x.max(1);
    let zeros = x.leading_zeros();
    let mut mantissa = x << zeros;
    let mut fraction = 0;
    for _ in 0..FRACTION_BITS {
        let square = u128::from(mantissa) * u128::from(mantissa);
        let above_two = (square >> 127) == 1;
        fraction = fraction << 1 | u64::from(above_two);
        mantissa = (if above_two { square >> 64 } else { square >> 63 }) as u64;
    }
    (u64::from(1 + zeros) << FRACTION_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn value_halves_with_every_half_life() {
        for (age, left) in [(0, 1_000_000), (1, 500_000), (2, 250_000), (3, 125_000), (64, 0), (1_000_000, 0)] {
            assert_eq!(decayed(1_000_000, HOUR * age, HOUR), left, "after {age} half-lives");
        }
        // 2^(-1/2) and 2^(-1/4) of a million.
        assert_eq!(decayed(1_000_000, HOUR / 2, HOUR), 707_106);
        assert_eq!(decayed(1_000_000, HOUR / 4, HOUR), 840_896);
    }

    #[test]
    fn logarithms_of_powers_of_two_are_whole() {
        for power in 0..64_u32 {
            assert_eq!(negative_log2(1 << power), u64::from(64 - power) << FRACTION_BITS);
        }
        assert_eq!(negative_log2(0), negative_log2(1));
        assert_eq!(negative_log2(u64::MAX), 1);
    }

    proptest! {
        #[test]
        fn logarithm_agrees_with_floating_point(x in 1_u64..) {
            let expected = 64.0 - (x as f64).log2();
            let found = negative_log2(x) as f64 / f64::from(2_u32.pow(16)).powi(2);
            prop_assert!((expected - found).abs() < 1e-6, "{expected} and {found}");
        }

        #[test]
        fn decay_agrees_with_floating_point(value in 0_u64..1 << 40, millis in 0_u64..100_000_000) {
            let expected = value as f64 * (-(millis as f64) / 3_600_000.0).exp2();
            let found = decayed(value, Duration::from_millis(millis), HOUR) as f64;
            prop_assert!((expected - found).abs() <= expected * 1e-4 + 20.0, "{expected} and {found}");
        }
    }
}
