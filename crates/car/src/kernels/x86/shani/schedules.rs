//! SHA-256 message schedules in assembly, in steps that stand between the rounds (`rounds`).
//!
//! Two schedules advance alternately. The first keeps the last sixteen words in four registers, the second
//! keeps twelve of them in three registers and the rest in memory.

/// Loads words `$four` of the message of one node of the pair.
macro_rules! load {
    ($four:tt $node:tt $w:tt) => {
        concat!("vmovdqu xmm", $w, ", [{nodes} + 16*", $four, " + 64*", $node, "]\n")
    };
}

/// Stores words `$four` of one node's schedule with the round constants added.
macro_rules! put {
    (none $four:tt $node:tt $w:tt) => {
        ""
    };
    ($kind:tt $four:tt $node:tt $w:tt) => {
        concat!(
            "vpaddd xmm0, xmm",
            $w,
            ", [{constants} + 16*",
            $four,
            "]\n",
            "vmovdqa [{next} + 64*",
            $four,
            " + 16*",
            $node,
            "], xmm0\n",
        )
    };
}

/// Computes four words of the first schedule from the sixteen words before them in four registers; four
/// steps.
macro_rules! ahead {
    (1 message, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { load!($four 0 $w0) };
    (1 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { concat!("sha256msg1 xmm", $w0, ", xmm", $w1, "\n") };
    (2 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => {
        concat!("vpalignr xmm0, xmm", $w3, ", xmm", $w2, ", 4\n")
    };
    (3 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => {
        concat!("vpaddd xmm", $w0, ", xmm", $w0, ", xmm0\n")
    };
    (4 later, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { concat!("sha256msg2 xmm", $w0, ", xmm", $w3, "\n") };
    ($step:tt message, $four:tt, $w0:tt $w1:tt $w2:tt $w3:tt) => { "" };
}

/// The last two steps of words `$four` of the second schedule, which are in `$w`.
macro_rules! finish_other {
    (none $step:tt, $four:tt, $w:tt $w3:tt) => {
        ""
    };
    (message 1, $four:tt, $w:tt $w3:tt) => {
        ""
    };
    ($kind:tt 1, $four:tt, $w:tt $w3:tt) => {
        concat!("sha256msg2 xmm", $w, ", xmm", $w3, "\n")
    };
    (last 2, $four:tt, $w:tt $w3:tt) => {
        ""
    };
    ($kind:tt 2, $four:tt, $w:tt $w3:tt) => {
        concat!("vmovdqa [{scratch} + 16*", $four, "], xmm", $w, "\n")
    };
}

/// Computes four words of the second schedule but for the last two steps. The words sixteen words before them
/// come from `scratch`.
macro_rules! ahead_other {
    (message, $ago:tt $four:tt, $w:tt $w2:tt $w3:tt) => { load!($four 1 $w) };
    (later, $ago:tt $four:tt, $w:tt $w2:tt $w3:tt) => {
        concat!(
            "vmovdqa xmm0, [{scratch} + 16*", $ago, "]\n",
            "sha256msg1 xmm0, xmm", $w, "\n",
            "vpalignr xmm", $w, ", xmm", $w3, ", xmm", $w2, ", 4\n",
            "vpaddd xmm", $w, ", xmm", $w, ", xmm0\n",
        )
    };
}
