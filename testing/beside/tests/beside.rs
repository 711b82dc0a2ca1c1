//! Keylatch in one build with sqlx and its SQLite driver, and with a user of serde_json.

use std::process::Command;

use sqlx::Connection as _;

/// Both drivers link the same SQLite, and can use one file.
#[tokio::test]
async fn sqlx_reads_the_file_that_keylatch_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("both.db");
    let _store = keylatch::sqlite::Store::open(&path).await.unwrap();
    let mut conn = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let (version,): (String,) = sqlx::query_as("SELECT sqlite_version()").fetch_one(&mut conn).await.unwrap();
    let (records,): (i64,) = sqlx::query_as("SELECT count(*) FROM keylatch_record").fetch_one(&mut conn).await.unwrap();
    assert_eq!((version.split('.').next(), records), (Some("3"), 0));
}

/// With `arbitrary_precision`, serde_json cannot read a number in a tagged or flattened value as an `f64`. In one
/// build, a feature that any crate asks for is on for all, so Keylatch must not ask for this one.
#[test]
fn no_feature_of_keylatch_changes_how_its_user_reads_json() {
    let tree = ["tree", "--package", env!("CARGO_PKG_NAME"), "--edges", "normal,features", "--locked", "--offline"];
    let printed = Command::new(env!("CARGO")).args(tree).args(["--invert", "serde_json"]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("serde_json feature \"raw_value\""), "{printed}");
    for feature in ["arbitrary_precision", "preserve_order", "float_roundtrip"] {
        assert!(!printed.contains(feature), "{feature}: {printed}");
    }
}
