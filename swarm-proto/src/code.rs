//! Codes that people read aloud and type: Crockford's base 32 with a check character.
//!
//! Reading is forgiving (case, hyphens, spaces, `O` for `0`, `I` and `L` for `1`), writing is not: capitals, groups of
//! four. The check character is the syndrome of a Reed-Solomon-like code over GF(32), so every single wrong character
//! and every swap of two characters is noticed; Crockford's own check needs five more symbols that shells and URLs
//! dislike. Codes are secrets: no `Debug`, comparison in constant time.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The thirty-two digits: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters between two hyphens.
const GROUP: usize = 4;

/// x⁵ + x² + 1, which makes x a generator of all 31 non-zero elements of GF(32): the check holds up to 31 characters.
const FIELD_POLYNOMIAL: u8 = 0b10_0101;

/// Longest text looked at, in bytes; a code with all its hyphens and some spaces is below half of it.
const MAX_TEXT_BYTES: usize = 128;

/// Why a code was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Something that is no digit of the alphabet. Ask for the code again.
    #[error("{0:?} does not occur in codes (letters and digits, without U)")]
    Character(char),
    /// Characters are missing, or there are too many. Ask for the code again.
    #[error("a code of {expected} characters was expected, found {found} (hyphens do not count)")]
    Length {
        /// Characters that this kind of code has.
        expected: usize,
        /// Characters that were given.
        found: usize,
    },
    /// The check character does not fit: something is mistyped. Ask for the code again.
    #[error("the code has a typing error: its last character does not fit the others")]
    Check,
}

/// A device's invitation into an account: eight characters, shown once on the customer's page.
///
/// Thirty-five random bits: enough because it lives for minutes and wrong guesses are counted.
#[derive(Clone)]
pub struct EnrolCode(Zeroizing<[u8; EnrolCode::DIGITS]>);

impl EnrolCode {
    /// Random characters; one check character follows.
    const DIGITS: usize = 7;

    /// Makes a new code.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(random_digits(rng))
    }

    /// Reads what someone typed.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        digits_of(text).map(Self)
    }

    /// The code as shown to people: `XXXX-XXXX`.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(grouped(&*self.0))
    }
}

impl PartialEq for EnrolCode {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}
impl Eq for EnrolCode {}

/// The code of a prepaid pass: sixteen characters and a check, 80 random bits, as good as money.
#[derive(Clone)]
pub struct PassCode(Zeroizing<[u8; PassCode::DIGITS]>);

impl PassCode {
    /// Random characters; one check character follows.
    const DIGITS: usize = 16;

    /// Makes a new code.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(random_digits(rng))
    }

    /// Reads what someone typed.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        digits_of(text).map(Self)
    }

    /// The code as shown once to whoever bought it: `XXXX-XXXX-XXXX-XXXX-X`. Also the form to hash.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(grouped(&*self.0))
    }
}

impl PartialEq for PassCode {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}
impl Eq for PassCode {}

/// Bytes as a code: 5 bits a character, the first character padded with zero bits in front.
pub(crate) fn encode_bytes(bytes: &[u8; 16]) -> String {
    let mut number = u128::from_be_bytes(*bytes);
    let mut digits = [0u8; DIGITS_OF_16_BYTES];
    for digit in digits.iter_mut().rev() {
        *digit = (number & 31) as u8;
        number >>= 5;
    }
    grouped(&digits)
}

/// The inverse of [`encode_bytes`].
pub(crate) fn decode_bytes(text: &str) -> Result<[u8; 16], CodeError> {
    let digits: Zeroizing<[u8; DIGITS_OF_16_BYTES]> = digits_of(text)?;
    // 26 characters hold 130 bits: the first may only be 0 to 7, or two texts would name one id.
    if digits[0] > 7 {
        return Err(CodeError::Check);
    }
    let number = digits.iter().fold(0u128, |number, digit| (number << 5) | u128::from(*digit));
    Ok(number.to_be_bytes())
}

/// The first eight characters of some bytes, without check: for people to tell things apart, never to look them up.
pub(crate) fn glimpse(bytes: &[u8; 32]) -> String {
    let mut number = 0u64;
    for byte in &bytes[..5] {
        number = (number << 8) | u64::from(*byte);
    }
    (0..8).rev().map(|place| char::from(ALPHABET[(number >> (5 * place) & 31) as usize])).collect()
}

const DIGITS_OF_16_BYTES: usize = 26;

fn random_digits<const N: usize>(rng: &mut impl CryptoRng) -> Zeroizing<[u8; N]> {
    let mut digits = Zeroizing::new([0u8; N]);
    rng.fill_bytes(&mut *digits);
    // 256 is a multiple of 32: masking keeps the digits uniform.
    digits.iter_mut().for_each(|digit| *digit &= 31);
    digits
}

fn digits_of<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, CodeError> {
    let mut digits = Zeroizing::new([0u8; N]);
    let mut check = None;
    let mut found = 0;
    for character in text.chars().take(MAX_TEXT_BYTES) {
        if character == '-' || character.is_whitespace() {
            continue;
        }
        let digit = digit_of(character)?;
        match found {
            place if place < N => digits[place] = digit,
            place if place == N => check = Some(digit),
            _ => {}
        }
        found += 1;
    }
    if found != N + 1 {
        return Err(CodeError::Length { expected: N + 1, found });
    }
    if check != Some(check_digit(&*digits)) {
        return Err(CodeError::Check);
    }
    Ok(digits)
}

fn digit_of(character: char) -> Result<u8, CodeError> {
    let upper = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let place = ALPHABET.iter().position(|digit| char::from(*digit) == upper);
    place.map(|place| place as u8).ok_or(CodeError::Character(character))
}

/// The digit that makes the polynomial of all digits divisible by (x - generator).
fn check_digit(digits: &[u8]) -> u8 {
    digits.iter().fold(0, |sum, digit| times_generator(sum ^ digit))
}

fn times_generator(element: u8) -> u8 {
    let shifted = element << 1;
    if shifted & 32 == 0 { shifted } else { shifted ^ FIELD_POLYNOMIAL }
}

fn grouped(digits: &[u8]) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / GROUP + 2);
    for (place, digit) in digits.iter().copied().chain([check_digit(digits)]).enumerate() {
        if place > 0 && place % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(ALPHABET[usize::from(digit)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn pass_code_survives_hasty_typing() {
        let code = PassCode::generate(&mut ChaCha8Rng::seed_from_u64(1));
        let shown = code.reveal();
        assert_eq!(shown.len(), 21);
        let typed = shown.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
        assert!(PassCode::parse(&typed).is_ok_and(|read| read == code));
    }

    #[test]
    fn enrol_code_has_eight_characters() {
        let code = EnrolCode::generate(&mut ChaCha8Rng::seed_from_u64(2));
        assert_eq!(code.reveal().replace('-', "").len(), 8);
        assert!(EnrolCode::parse(&code.reveal()).is_ok_and(|read| read == code));
    }

    #[test]
    fn strange_and_missing_characters_are_named() {
        assert_eq!(EnrolCode::parse("UUUU-UUUU").err(), Some(CodeError::Character('U')));
        assert_eq!(EnrolCode::parse("0000").err(), Some(CodeError::Length { expected: 8, found: 4 }));
        assert_eq!(EnrolCode::parse("").err(), Some(CodeError::Length { expected: 8, found: 0 }));
    }

    proptest! {
        #[test]
        fn sixteen_bytes_survive_being_a_code(bytes: [u8; 16]) {
            prop_assert_eq!(decode_bytes(&encode_bytes(&bytes)), Ok(bytes));
        }

        #[test]
        fn every_wrong_character_is_noticed(bytes: [u8; 16], place in 0usize..27, other in 0usize..32) {
            let right = encode_bytes(&bytes).replace('-', "");
            let mut wrong = right.clone().into_bytes();
            prop_assume!(wrong[place] != ALPHABET[other]);
            wrong[place] = ALPHABET[other];
            prop_assert!(decode_bytes(&String::from_utf8(wrong).expect("ASCII")).is_err());
        }

        #[test]
        fn every_swap_of_two_characters_is_noticed(bytes: [u8; 16], one in 0usize..27, two in 0usize..27) {
            let mut wrong = encode_bytes(&bytes).replace('-', "").into_bytes();
            prop_assume!(wrong[one] != wrong[two]);
            wrong.swap(one, two);
            prop_assert!(decode_bytes(&String::from_utf8(wrong).expect("ASCII")).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,200}") {
            let _ = PassCode::parse(&text);
        }
    }
}
