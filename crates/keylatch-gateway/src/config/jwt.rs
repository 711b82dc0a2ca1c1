//! Tokens that identify the caller: JWTs ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519)) in `Authorization: Bearer
//! …`.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::mistakes::Mistakes;
use super::table::Table;
use crate::args::Span;

/// Verifies the tokens of one issuer.
pub(crate) struct Verifier {
    keys: Vec<VerifyingKey>,
    /// What is checked in each token. The algorithm is that of its key.
    validation: Validation,
}

struct VerifyingKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The claims of a verified token.
pub(crate) struct Claims(Map<String, Value>);

/// There is no valid token. The reason contains nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotVerified(pub(crate) &'static str);

/// How far the clocks of two machines may differ.
const LEEWAY: Duration = Duration::from_secs(60);
/// The shortest secret for HS256 ([RFC 7518, section 3.2](https://www.rfc-editor.org/rfc/rfc7518#section-3.2)).
const SECRET_BYTES_MIN: usize = 32;

impl Verifier {
    /// Reads the verifier from a table `[jwt.NAME]`. Paths are relative to `directory`.
    pub(crate) fn read(mut table: Table<'_>, directory: &Path, mistakes: &mut Mistakes) -> Option<Self> {
        let sources = ["jwks", "secret-file", "secret-env"];
        let (jwks, secret_file, secret_env) = (
            table.string("jwks", mistakes),
            table.string("secret-file", mistakes),
            table.string("secret-env", mistakes),
        );
        let named = [&jwks, &secret_file, &secret_env].into_iter().flatten().count();
        let mut keys = None;
        if named != 1 {
            let all =
                "name one: jwks = \"FILE\" (public keys), secret-file = \"FILE\" or secret-env = \"VARIABLE\" (HS256)";
            let what = if named == 0 { "has no key to verify with" } else { "has more than one of" };
            let of = if named == 0 { String::new() } else { format!(" {}", sources.join(", ")) };
            mistakes.add(&table.at, format!("{} {what}{of}", table.name), all);
        } else if let Some(jwks) = jwks {
            keys = table.parsed_by("jwks", mistakes, |_| of_jwks(&directory.join(jwks.value)));
        } else if let Some(file) = secret_file {
            let secret = |_: &str| {
                let path = directory.join(file.value);
                let mut secret = fs::read(&path).map_err(|error| cannot_read(&path, &error))?;
                while secret.last().is_some_and(|last| b"\r\n".contains(last)) {
                    secret.pop();
                }
                of_secret(&secret)
            };
            keys = table.parsed_by("secret-file", mistakes, secret);
        } else if let Some(variable) = secret_env {
            let secret = |_: &str| match std::env::var(variable.value) {
                Ok(secret) => of_secret(secret.as_bytes()),
                Err(_) => Err("set the environment variable of this name".to_owned()),
            };
            keys = table.parsed_by("secret-env", mistakes, secret);
        }
        let mut validation = Validation { validate_nbf: true, ..Validation::default() };
        let mut required = vec!["exp"];
        if let Some(issuers) = table.strings("issuer", mistakes) {
            required.push("iss");
            validation.set_issuer(&issuers.iter().map(|issuer| issuer.value).collect::<Vec<_>>());
        }
        if let Some(audiences) = table.strings("audience", mistakes) {
            required.push("aud");
            validation.set_audience(&audiences.iter().map(|audience| audience.value).collect::<Vec<_>>());
        }
        validation.set_required_spec_claims(&required);
        validation.leeway = table.parsed::<Span>("leeway", mistakes).map_or(LEEWAY, |leeway| leeway.0).as_secs();
        table.end(mistakes);
        Some(Self { keys: keys?, validation })
    }

    /// Verifies the token in these headers, and returns its claims.
    ///
    /// # Errors
    ///
    /// If there is not exactly one token, no key of ours has signed it, it is not valid now, or it is for someone else.
    pub(crate) fn verify(&self, headers: &HeaderMap) -> Result<Claims, NotVerified> {
        let token = bearer(headers)?;
        let header = decode_header(token).map_err(|_| NotVerified("The token is no JWT."))?;
        let mut fitting = self.keys.iter().filter(|key| key.fits(header.kid.as_deref(), header.alg));
        let (Some(key), None) = (fitting.next(), fitting.next()) else {
            return Err(NotVerified("The token is signed by a key that is not known here."));
        };
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        match decode(token, &key.key, &validation) {
            Ok(token) => Ok(Claims(token.claims)),
            Err(error) => Err(NotVerified(why(error.kind()))),
        }
    }
}

impl VerifyingKey {
    /// Whether this key may verify a token with this key id and algorithm. A token without an id may be signed by any
    /// key.
    fn fits(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        self.algorithm == algorithm && (id.is_none() || self.id.is_none() || id == self.id.as_deref())
    }
}

impl Claims {
    /// The value of a claim that identifies the caller: a string that is not empty, or an integer.
    pub(crate) fn caller(&self, claim: &str) -> Option<String> {
        match self.0.get(claim)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }
}

/// The token in `Authorization: Bearer …` ([RFC 6750, section 2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)).
fn bearer(headers: &HeaderMap) -> Result<&str, NotVerified> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(NotVerified("The request needs one Authorization header, with a bearer token."));
    };
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token.trim())
    } else {
        Err(NotVerified("The request needs a bearer token in its Authorization header."))
    }
}

fn why(error: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error {
        ErrorKind::ExpiredSignature => "The token has expired.",
        ErrorKind::ImmatureSignature => "The token is not valid yet.",
        ErrorKind::InvalidIssuer => "The issuer of the token is another.",
        ErrorKind::InvalidAudience => "The token is for another audience.",
        ErrorKind::InvalidSignature => "The signature of the token is wrong.",
        ErrorKind::MissingRequiredClaim(_) => "The token lacks a claim that is required.",
        _ => "The token cannot be read.",
    }
}

fn of_secret(secret: &[u8]) -> Result<Vec<VerifyingKey>, String> {
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!("the secret has {} bytes; HS256 needs {SECRET_BYTES_MIN} at the least", secret.len()));
    }
    let key = DecodingKey::from_secret(secret).map_err(|error| error.to_string())?;
    Ok(vec![VerifyingKey { id: None, algorithm: Algorithm::HS256, key }])
}

/// The signing keys of a JWK set ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)).
fn of_jwks(path: &Path) -> Result<Vec<VerifyingKey>, String> {
    let text = fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
    let set: JwkSet = serde_json::from_str(&text).map_err(|error| {
        format!("{}:{}:{}: this is no JWK set: {error}", path.display(), error.line(), error.column())
    })?;
    let signing = set
        .keys
        .iter()
        .filter(|key| key.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature));
    let keys: Vec<_> = signing.enumerate().map(|(at, jwk)| of_jwk(jwk, at, path)).collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(format!("{} has no key for signatures", path.display()));
    }
    for (at, key) in keys.iter().enumerate() {
        let same = |other: &VerifyingKey| other.id == key.id && other.algorithm == key.algorithm;
        if keys[..at].iter().any(same) {
            return Err(format!("in {} two keys cannot be told apart; give each a `kid` of its own", path.display()));
        }
    }
    Ok(keys)
}

fn of_jwk(jwk: &Jwk, at: usize, path: &Path) -> Result<VerifyingKey, String> {
    let refuse = |why: &str| format!("key {} in {}: {why}", at + 1, path.display());
    let default = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Algorithm::ES384,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::OctetKey(_) => {
            return Err(refuse("a set of public keys has no secret in it; use secret-file for HS256"));
        }
        _ => return Err(refuse("its kind is not known; it is RSA, EC with P-256 or P-384, or OKP with Ed25519")),
    };
    let algorithm = match jwk.common.key_algorithm {
        None => default,
        Some(named) => {
            named.to_string().parse::<Algorithm>().map_err(|_| refuse("its `alg` is not one for signatures"))?
        }
    };
    if algorithm.family() != default.family() {
        return Err(refuse("its `alg` is for another kind of key"));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|error| refuse(&error.to_string()))?;
    Ok(VerifyingKey { id: jwk.common.key_id.clone(), algorithm, key })
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

/// Shows no keys.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

    fn verifier() -> Verifier {
        let mut validation = Validation { validate_nbf: true, leeway: 60, ..Validation::default() };
        validation.set_issuer(&["us"]);
        validation.set_audience(&["orders"]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        Verifier { keys: of_secret(SECRET).unwrap(), validation }
    }

    fn signed(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
        let key = EncodingKey::from_secret(secret).unwrap();
        encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn claims(changes: &[(&str, Value)]) -> Value {
        let now = jsonwebtoken::get_current_timestamp();
        let mut claims = json!({ "iss": "us", "aud": "orders", "exp": now + 600, "sub": "alice", "tenant": 7 });
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        claims
    }

    fn verify(token: &str) -> Result<Claims, NotVerified> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        verifier().verify(&headers)
    }

    #[test]
    fn a_token_that_is_for_us_and_for_now_is_believed() {
        let told = verify(&signed(Algorithm::HS256, SECRET, &claims(&[]))).expect("it is verified");
        assert_eq!(told.caller("sub").as_deref(), Some("alice"));
        assert_eq!(told.caller("tenant").as_deref(), Some("7"));
        assert_eq!(told.caller("absent"), None);
        let odd = claims(&[("sub", json!("")), ("tenant", json!([1])), ("x", json!(1.5)), ("y", json!(true))]);
        let told = verify(&signed(Algorithm::HS256, SECRET, &odd)).expect("it is verified");
        assert!(["sub", "tenant", "x", "y"].iter().all(|claim| told.caller(claim).is_none()));
    }

    #[test]
    fn every_other_token_is_not() {
        let now = jsonwebtoken::get_current_timestamp();
        let whole = signed(Algorithm::HS256, SECRET, &claims(&[]));
        let (head, signature) = whole.rsplit_once('.').unwrap();
        let none = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
        let tokens = [
            signed(Algorithm::HS256, b"another secret of thirty-two bytes or more", &claims(&[])),
            signed(Algorithm::HS512, SECRET, &claims(&[])),
            signed(Algorithm::HS256, SECRET, &claims(&[("exp", json!(now - 120))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("exp", json!(null))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("exp", json!("soon"))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("nbf", json!(now + 600))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("nbf", json!("then"))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("iss", json!("them"))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("iss", json!(null))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("aud", json!("payments"))])),
            signed(Algorithm::HS256, SECRET, &claims(&[("aud", json!(null))])),
            format!("{head}.{}", signature.chars().rev().collect::<String>()),
            head.to_owned(),
            none,
            String::new(),
            "a.b.c".to_owned(),
        ];
        for token in tokens {
            assert!(verify(&token).is_err(), "{token}");
        }
        for lines in
            [&[] as &[&str], &["Basic YTpi"], &["Bearer"], &[&format!("Bearer {whole}"), &format!("Bearer {whole}")]]
        {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(AUTHORIZATION, line.parse().unwrap());
            }
            assert!(verifier().verify(&headers).is_err(), "{lines:?}");
        }
        // The control: the same token, sent once.
        assert!(verify(&whole).is_ok());
    }
}
