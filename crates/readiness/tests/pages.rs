//! Tests that the generated pages in the repository are up to date.

use kith_readiness::{Catalogue, Outcome};

const CATALOGUE: &str = include_str!("../../../docs/catalogue.md");
const READINESS: &str = include_str!("../../../docs/READINESS.md");

#[test]
fn catalogue_page_is_current() {
    let page = Catalogue::built_in().to_markdown();
    assert!(CATALOGUE.trim_end() == page, "run `kith verify --list > docs/catalogue.md`");
}

/// DOC-11: `docs/READINESS.md` is the report of a run, with exactly the rows of the catalogue.
#[test]
fn readiness_page_matches_catalogue() {
    let rows: Vec<Vec<_>> = READINESS
        .lines()
        .filter(|line| {
            line.starts_with("| ") && line.split('|').nth(1).is_some_and(|cell| cell.contains('-'))
        })
        .filter(|line| !line.contains("---"))
        .map(|line| {
            line.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
        })
        .collect();
    let catalogue = Catalogue::built_in();
    let again = "run `kith verify --format markdown > docs/READINESS.md` against the demo";
    assert_eq!(rows.len(), catalogue.rows.len(), "{again}");
    let outcomes = Outcome::ALL.map(Outcome::name);
    for (shown, row) in rows.iter().zip(&catalogue.rows) {
        let [_, id, gate, result, what, found, _] = &shown[..] else { panic!("{shown:?}") };
        let expected = (&*row.id, format!("{:?}", row.gate).to_lowercase(), row.what.replace('<', "&lt;"));
        assert_eq!((&**id, gate.clone(), what.clone()), expected, "{again}");
        assert!(outcomes.contains(&&**result), "{id}: {result}");
        assert!(!found.is_empty(), "{id}");
        assert!(row.waits.is_none() || result == "not yet" || result == "waived", "{id}: {result}");
    }
    for said in ["* Build: ", "* Configuration: sha256:", "* Measured: ", "Score ", "gate is"] {
        assert!(READINESS.contains(said), "{said}");
    }
}
