//! Mathematical functions (library section 9).

use hsl::FunctionDef;

/// The functions of the group.
pub(crate) fn functions() -> Vec<FunctionDef> {
    vec![
        FunctionDef::pure("abs(number: number) -> number", "Absolute value.", |_, a| {
            Ok(a.number(0).abs().into())
        }),
        FunctionDef::pure("ceil(number: number) -> number", "Rounds up.", |_, a| {
            Ok(a.number(0).ceil().into())
        }),
        FunctionDef::pure("floor(number: number) -> number", "Rounds down.", |_, a| {
            Ok(a.number(0).floor().into())
        }),
        FunctionDef::pure(
            "sqrt(number: number) -> number",
            "Square root; nan of a negative number.",
            |_, a| Ok(a.number(0).sqrt().into()),
        ),
        FunctionDef::pure(
            "log(number: number, base?: number) -> number",
            "Logarithm, natural without base.",
            |_, a| {
                let n = a.number(0).ln();
                Ok(if a.given(1).is_some() { n / a.number(1).ln() } else { n }.into())
            },
        ),
        FunctionDef::pure("pow(base: number, exponent: number) -> number", "Power.", |_, a| {
            Ok(a.number(0).powf(a.number(1)).into())
        }),
        FunctionDef::pure(
            "round(number: number, decimals?: number) -> number",
            "Rounds half away from zero.",
            |_, a| {
                let scale = 10f64.powi(a.integer_or(1, 0)?.clamp(-400, 400) as i32);
                let n = a.number(0);
                let scaled = n * scale;
                Ok(if scaled.is_finite() { scaled.round() / scale } else { n }.into())
            },
        ),
    ]
}
