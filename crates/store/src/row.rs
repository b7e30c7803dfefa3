//! Rows read into types whose columns are declared once.

use crate::value::Column;
use crate::{Error, Row};

/// Cursor over the columns of a row.
pub struct Columns<'r, 'c> {
    row: &'r Row<'c>,
    at: usize,
}

impl<'r, 'c> Columns<'r, 'c> {
    /// Starts at the first column of `row`.
    pub fn of(row: &'r Row<'c>) -> Self {
        Self { row, at: 0 }
    }

    /// Reads a `T` from the next columns.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not hold such a value.
    pub fn read<T: FromRow>(&mut self) -> Result<T, Error> {
        T::from_columns(self)
    }
}

/// Type that is read from one or more columns. [`row_columns!`](crate::row_columns) implements it for a
/// struct.
pub trait FromRow: Sized {
    /// Reads the value from the next columns.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not hold such a value.
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error>;

    /// Reads the value from the first columns of `row`.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the columns do not hold such a value.
    fn read_row(row: &Row<'_>) -> Result<Self, Error> {
        Self::from_columns(&mut Columns::of(row))
    }
}

impl<T: Column> FromRow for T {
    fn from_columns(columns: &mut Columns<'_, '_>) -> Result<Self, Error> {
        columns.at += 1;
        columns.row.get(columns.at - 1)
    }
}

/// Declares the columns of a row type once: implements [`FromRow`] and defines a macro that expands to the
/// column list, for use in `concat!`. Fields after the semicolon are computed from the other fields. Write
/// the type of a field if such an expression requires it.
///
/// ```
/// use kith_store::{Error, FromRow, Query, params, row_columns};
///
/// struct Dog {
///     id: i64,
///     name: Option<String>,
///     is_named: bool,
/// }
///
/// row_columns! {
///     dog_columns => Dog { id = "d.id", name: Option<String> = "d.name"; is_named = name.is_some() }
/// }
///
/// fn find_dog(q: &Query<'_>, id: i64) -> Result<Option<Dog>, Error> {
///     q.one(concat!("SELECT ", dog_columns!(), " FROM dogs d WHERE d.id = $1"), params![id], Dog::read_row)
/// }
///
/// assert_eq!(dog_columns!(), "d.id, d.name");
/// ```
#[macro_export]
macro_rules! row_columns {
    ($list:ident => $type:ident {
        $first:ident $(: $first_type:ty)? = $first_column:literal
        $(, $field:ident $(: $field_type:ty)? = $column:literal)* $(,)?
        $(; $computed:ident = $value:expr)* $(;)?
    }) => {
        macro_rules! $list {
            () => { concat!($first_column $(, ", ", $column)*) };
        }

        impl $crate::FromRow for $type {
            fn from_columns(columns: &mut $crate::Columns<'_, '_>) -> Result<Self, $crate::Error> {
                let $first $(: $first_type)? = columns.read()?;
                $(let $field $(: $field_type)? = columns.read()?;)*
                Ok(Self { $($computed: $value,)* $first $(, $field)* })
            }
        }
    };
}
