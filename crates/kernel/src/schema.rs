//! OpenAPI schemas of types that are represented in JSON by a single string, a single number or any value.

/// Implements `utoipa::ToSchema` for a type that is represented in JSON by a single value. The OpenAPI
/// document contains the schema inline and not as a component, so several types may use the same name.
///
/// ```
/// use kith_kernel::{__utoipa::PartialSchema, scalar_schema};
///
/// struct Port(u16);
///
/// scalar_schema! { Port => "Port", Integer, Int32 }
///
/// let json = serde_json::to_value(Port::schema()).unwrap();
/// assert_eq!(json, serde_json::json!({ "type": "integer", "format": "int32" }));
/// ```
///
/// If the type and the format are omitted, the schema allows any value.
#[macro_export]
macro_rules! scalar_schema {
    (@type) => { $crate::__utoipa::openapi::schema::SchemaType::AnyValue };
    (@type $kind:ident) => { $crate::__utoipa::openapi::schema::Type::$kind };
    ($type:ty => $name:literal $(, $kind:ident $(, $format:ident)?)?) => {
        impl $crate::__utoipa::PartialSchema for $type {
            fn schema() -> $crate::__utoipa::openapi::RefOr<$crate::__utoipa::openapi::Schema> {
                $crate::__utoipa::openapi::ObjectBuilder::new()
                    .schema_type($crate::scalar_schema!(@type $($kind)?))
                    $($(.format(Some($crate::__utoipa::openapi::SchemaFormat::KnownFormat(
                        $crate::__utoipa::openapi::KnownFormat::$format,
                    ))))?)?
                    .into()
            }
        }

        impl $crate::__utoipa::ToSchema for $type {
            fn name() -> ::std::borrow::Cow<'static, str> {
                ::std::borrow::Cow::Borrowed($name)
            }
        }
    };
}
