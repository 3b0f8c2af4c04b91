//! Fr32 expansion (`crate::fr32`) in assembly, in steps that stand between the SHA-256 rounds (`rounds`).
//!
//! The steps use integer instructions only, whose units rounds and schedules leave idle.

/// Expands two of a quad's 32 words to message words beside the four rounds `$four`, in six steps.
///
/// All words of an element begin at the same bit of a byte, `$bit`, or with a `whole` byte. A word lies in
/// the eight bytes that start with its first bit. In a row with `top` the second word is the last of its
/// element, and has thirty bits.
macro_rules! expand {
    (alone $($which:tt)*) => { "" };
    (expanding $quad:tt 1, $four:tt whole $($top:tt)?) => {
        concat!("mov {word:e}, [{raw} + 127*", $quad, " + 8*", $four, "]\n")
    };
    (expanding $quad:tt 4, $four:tt whole) => {
        concat!("mov {word:e}, [{raw} + 127*", $quad, " + 8*", $four, " + 4]\n")
    };
    (expanding $quad:tt 1, $four:tt $bit:tt $($top:tt)?) => {
        concat!("rorx {word}, qword ptr [{raw} + 127*", $quad, " + 8*", $four, " - 1], ", $bit, "\n")
    };
    // A load of eight bytes would pass the end of the quad; the last four bytes have all thirty bits.
    (expanding $quad:tt 4, $four:tt 2 top) => {
        concat!("mov {word:e}, [{raw} + 127*", $quad, " + 8*", $four, " + 3]\n", "shr {word:e}, 2\n")
    };
    (expanding $quad:tt 4, $four:tt $bit:tt) => {
        concat!("rorx {word}, qword ptr [{raw} + 127*", $quad, " + 8*", $four, " + 3], ", $bit, "\n")
    };
    (expanding $quad:tt 4, $four:tt $bit:tt top) => {
        concat!(expand!(expanding $quad 4, $four $bit), "and {word:e}, 0x3fffffff\n")
    };
    (expanding $quad:tt 2, $($which:tt)*) => { "bswap {word:e}\n" };
    (expanding $quad:tt 5, $($which:tt)*) => { "bswap {word:e}\n" };
    (expanding $quad:tt 3, $four:tt $($which:tt)*) => {
        concat!("mov [{padded} + 128*", $quad, " + 8*", $four, "], {word:e}\n")
    };
    (expanding $quad:tt 6, $four:tt $($which:tt)*) => {
        concat!("mov [{padded} + 128*", $quad, " + 8*", $four, " + 4], {word:e}\n")
    };
}
