//! Money: exact decimals, never floating point.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// An amount of money, not negative, with two to [`DECIMALS_MAX`] decimals. 3 × 0.10 is 0.30.
///
/// In JSON it is a number, written digit for digit: `25.00` stays `25.00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Number")]
pub(crate) struct Money(#[serde(with = "rust_decimal::serde::arbitrary_precision")] Decimal);

/// The most decimals of a price: no currency of ISO 4217 has more than four.
pub(crate) const DECIMALS_MAX: u32 = 4;
/// Every amount is written with at least two decimals.
const DECIMALS_MIN: u32 = 2;
/// A price must be under this. A [`Decimal`] can still hold the exact total of a thousand items of a million pieces
/// each at such a price.
const PRICE_LIMIT: u64 = 1_000_000_000_000;

/// Why a number is not a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAPrice {
    #[error("must not be negative")]
    Negative,
    #[error("must be less than {PRICE_LIMIT}")]
    TooLarge,
    #[error("must have at most {DECIMALS_MAX} decimals")]
    TooFine,
}

impl Money {
    /// Reads a JSON number's text, exponent form included.
    pub(crate) fn parse(number: &str) -> Result<Self, NotAPrice> {
        let amount = exact(number)?;
        if amount.is_sign_negative() && !amount.is_zero() {
            return Err(NotAPrice::Negative);
        }
        if amount >= Decimal::from(PRICE_LIMIT) {
            return Err(NotAPrice::TooLarge);
        }
        if amount.normalize().scale() > DECIMALS_MAX {
            return Err(NotAPrice::TooFine);
        }
        Ok(Self::written(amount))
    }

    /// Reads what [`Display`](std::fmt::Display) wrote into the database; a total can be more than any price.
    pub(crate) fn from_stored(amount: &str) -> Option<Self> {
        Decimal::from_str_exact(amount).ok().map(Self)
    }

    /// The exact cost of `quantity` pieces at `price` each, for every `(price, quantity)`.
    pub(crate) fn total(items: impl IntoIterator<Item = (Self, u32)>) -> Self {
        let sum = items.into_iter().map(|(price, quantity)| price.0 * Decimal::from(quantity)).sum();
        Self::written(sum)
    }

    /// Both together, or the largest amount.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self::written(self.0.saturating_add(other.0))
    }

    /// With the number of decimals in which amounts are written; no significant digit is lost.
    fn written(mut amount: Decimal) -> Self {
        amount.set_sign_positive(true); // there is no -0.00
        amount.rescale(amount.scale().clamp(DECIMALS_MIN, DECIMALS_MAX));
        Self(amount)
    }
}

impl TryFrom<Number> for Money {
    type Error = NotAPrice;

    fn try_from(number: Number) -> Result<Self, NotAPrice> {
        Self::parse(number.as_str())
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The exact value of `number`, or why it cannot be a price.
fn exact(number: &str) -> Result<Decimal, NotAPrice> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, ""));
    let parsed = Decimal::from_str_exact(mantissa)
        .and_then(|exact| if exponent.is_empty() { Ok(exact) } else { Decimal::from_scientific(number) });
    parsed.map_err(|_| match (number.starts_with('-'), exponent.starts_with('-')) {
        (true, _) => NotAPrice::Negative,
        // More digits than a `Decimal` has, before or after the point.
        (false, false) if mantissa.find('.').unwrap_or(mantissa.len()) > 13 || !exponent.is_empty() => {
            NotAPrice::TooLarge
        }
        _ => NotAPrice::TooFine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(number: &str) -> Result<String, NotAPrice> {
        Money::parse(number).map(|money| money.to_string())
    }

    #[test]
    fn a_price_is_what_was_written() {
        for (number, written) in [
            ("25.00", "25.00"),
            ("10", "10.00"),
            ("5.5", "5.50"),
            ("0.1234", "0.1234"),
            ("1.100000", "1.1000"),
            ("0", "0.00"),
            ("-0", "0.00"),
            ("-0.0", "0.00"),
            ("1e3", "1000.00"),
            ("1e+3", "1000.00"),
            ("12.5E-1", "1.25"),
            ("999999999999.9999", "999999999999.9999"),
        ] {
            assert_eq!(price(number).as_deref(), Ok(written), "{number}");
        }
    }

    #[test]
    fn what_is_not_a_price_says_why() {
        for (number, why) in [
            ("-0.01", NotAPrice::Negative),
            ("-1e400", NotAPrice::Negative),
            ("-99999999999999999999999999999999999", NotAPrice::Negative),
            ("1000000000000", NotAPrice::TooLarge),
            ("1e12", NotAPrice::TooLarge),
            ("1e400", NotAPrice::TooLarge),
            ("1e+99999999999", NotAPrice::TooLarge),
            ("99999999999999999999999999999999999", NotAPrice::TooLarge),
            ("0.00001", NotAPrice::TooFine),
            ("1e-5", NotAPrice::TooFine),
            ("1e-400", NotAPrice::TooFine),
            ("0.10000000000000000000000000000000000000001", NotAPrice::TooFine),
        ] {
            assert_eq!(price(number), Err(why), "{number}");
        }
    }

    #[test]
    fn totals_are_exact() {
        let money = |number| Money::parse(number).unwrap();
        assert_eq!(Money::total([(money("0.10"), 3)]).to_string(), "0.30");
        assert_eq!(Money::total([(money("10.00"), 2), (money("5.00"), 1)]).to_string(), "25.00");
        assert_eq!(Money::total([(money("0.0001"), 1), (money("1"), 1)]).to_string(), "1.0001");
        assert_eq!(Money::total([]).to_string(), "0.00");
    }

    #[test]
    fn the_largest_order_has_an_exact_total() {
        let largest = Money::parse("999999999999.9999").unwrap();
        let total = Money::total(std::iter::repeat_n((largest, 1_000_000), 1_000));
        assert_eq!(total.to_string(), "999999999999999900000.0000");
    }

    #[test]
    fn json_keeps_every_digit() {
        let money = Money::parse("25.00").unwrap();
        assert_eq!(serde_json::to_string(&money).unwrap(), "25.00");
        assert_eq!(serde_json::from_str::<Money>("25.00").unwrap().to_string(), "25.00");
    }
}
