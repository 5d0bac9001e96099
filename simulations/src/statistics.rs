//! How sure a difference between two series of runs is.

/// Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The same for more.
const T_95_MANY: f64 = 1.96;

/// What runs on the same seeds say about a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Paired {
    pub(crate) n: usize,
    /// Means.
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// Mean of the differences, second minus first.
    pub(crate) difference: f64,
    /// The true difference is with 95 % within so much of it.
    pub(crate) half_width: f64,
}

impl Paired {
    /// Whether the seeds show a difference at all.
    pub(crate) fn differs(&self) -> bool {
        self.difference.abs() > self.half_width && self.difference != 0.0
    }
}

/// Compares pairs; none when there are fewer than two.
pub(crate) fn paired(pairs: &[(f64, f64)]) -> Option<Paired> {
    let n = pairs.len();
    if n < 2 {
        return None;
    }
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / n as f64;
    let difference = mean(&|(a, b)| b - a);
    let squares: f64 = pairs.iter().map(|(a, b)| (b - a - difference).powi(2)).sum();
    let error = (squares / (n - 1) as f64 / n as f64).sqrt();
    let t = T_95.get(n - 2).copied().unwrap_or(T_95_MANY);
    Some(Paired { n, a: mean(&|pair| pair.0), b: mean(&|pair| pair.1), difference, half_width: t * error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_difference_shows_and_noise_does_not() {
        let steady = paired(&[(10.0, 9.0), (11.0, 10.1), (12.0, 10.9)]).expect("three pairs");
        assert!(steady.differs() && steady.difference < 0.0);
        let noise = paired(&[(10.0, 12.0), (11.0, 9.0), (12.0, 12.5)]).expect("three pairs");
        assert!(!noise.differs());
    }

    #[test]
    fn the_interval_is_students() {
        let it = paired(&[(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)]).expect("three pairs");
        assert!((it.half_width - 4.303 / 3f64.sqrt()).abs() < 1e-9, "{}", it.half_width);
    }

    #[test]
    fn one_pair_says_nothing() {
        assert_eq!(paired(&[(1.0, 2.0)]), None);
    }
}
