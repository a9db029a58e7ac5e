//! The background of a scene: a room, a park or a street, with some objects.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::between;
use super::canvas::{Canvas, Part, shade};

/// Draws a wall or the sky, the floor, and a few objects.
pub(crate) fn draw(rng: &mut ChaCha8Rng, (width, height): (usize, usize)) -> Canvas {
    let place = rng.next_u32() % 3;
    let (far, near) =
        [([150, 190, 225], [104, 142, 84]), ([198, 186, 166], [138, 104, 78]), ([176, 184, 192], [122, 122, 120])]
            [place as usize];
    let mut vary =
        |colour: [i32; 3]| colour.map(|channel| (channel + (rng.next_u32() % 51) as i32 - 25).clamp(0, 255) as u8);
    let (far, near) = (vary(far), vary(near));
    let stripes = between(rng, 3.0, 9.0);
    let horizon = between(rng, 0.52, 0.66) * height as f32;
    let mut canvas = Canvas::new(width, height);
    for y in 0..height {
        let below = y as f32 >= horizon;
        let light = if below { 0.8 + 0.3 * y as f32 / height as f32 } else { 1.1 - 0.25 * y as f32 / horizon };
        for x in 0..width {
            // Stripes that run towards the horizon give the floor a texture.
            let run = (x as f32 - width as f32 / 2.0) / (y as f32 - 0.45 * height as f32).abs().max(1.0);
            let stripe = if below && (run * stripes).rem_euclid(2.0) < 1.0 { 0.93 } else { 1.0 };
            canvas.blend(x, y, shade(if below { near } else { far }, light * stripe), 1.0);
        }
    }
    let objects = 3 + rng.next_u32() % 3;
    for object in 0..objects {
        let x = (object as f32 + between(rng, 0.1, 0.9)) / objects as f32 * width as f32;
        match place {
            0 => tree(rng, &mut canvas, x, horizon),
            1 => picture(rng, &mut canvas, x, horizon),
            _ if rng.next_u32().is_multiple_of(2) => lamp(rng, &mut canvas, x, horizon),
            _ => house(rng, &mut canvas, x, horizon),
        }
    }
    canvas
}

fn tree(rng: &mut ChaCha8Rng, canvas: &mut Canvas, x: f32, horizon: f32) {
    let part = |from, to, radii, colour| Part { from, to, radii, colour };
    let top = horizon - between(rng, 50.0, 120.0);
    let size = between(rng, 0.7, 1.3);
    part([x, top], [x, horizon + 6.0], [5.0 * size, 8.0 * size], [92, 68, 50]).draw(canvas, 0);
    for (dx, dy, radius) in [(-16.0, 0.0, 24.0), (18.0, -4.0, 26.0), (0.0, -24.0, 28.0)] {
        let centre = [x + dx * size, top + dy * size];
        part(centre, centre, [radius * size; 2], [66, 112, 62]).draw(canvas, 0);
    }
}

/// Draws a framed picture on the wall.
fn picture(rng: &mut ChaCha8Rng, canvas: &mut Canvas, x: f32, horizon: f32) {
    let (top, half) = (between(rng, 0.1, 0.35) * horizon, between(rng, 20.0, 44.0));
    let bottom = top + between(rng, 40.0, 90.0);
    let paint = [0; 3].map(|_: u8| 60 + (rng.next_u32() % 170) as u8);
    rectangle(canvas, [x - half - 5.0, top - 5.0, x + half + 5.0, bottom + 5.0], [112, 88, 70]);
    rectangle(canvas, [x - half, top, x + half, bottom], paint);
}

fn lamp(rng: &mut ChaCha8Rng, canvas: &mut Canvas, x: f32, horizon: f32) {
    let part = |from, to, radii, colour| Part { from, to, radii, colour };
    let top = horizon - between(rng, 90.0, 150.0);
    part([x, top], [x, horizon + 12.0], [3.0, 4.5], [66, 68, 72]).draw(canvas, 0);
    part([x - 3.0, top], [x + 3.0, top], [9.0; 2], [236, 226, 180]).draw(canvas, 0);
}

fn house(rng: &mut ChaCha8Rng, canvas: &mut Canvas, x: f32, horizon: f32) {
    let (half, tall) = (between(rng, 36.0, 70.0), between(rng, 70.0, 150.0));
    let wall = [0; 3].map(|_: u8| 110 + (rng.next_u32() % 110) as u8);
    rectangle(canvas, [x - half, horizon - tall, x + half, horizon], wall);
    for row in 0..(tall / 34.0) as usize {
        for column in 0..3 {
            let (left, top) = (x + (column as f32 - 1.3) * half * 0.6, horizon - tall + 10.0 + 34.0 * row as f32);
            rectangle(canvas, [left, top, left + 0.36 * half, top + 18.0], [70, 84, 100]);
        }
    }
}

fn rectangle(canvas: &mut Canvas, [left, top, right, bottom]: [f32; 4], colour: [u8; 3]) {
    let within = |value: f32, most: usize| value.clamp(0.0, most as f32) as usize;
    for y in within(top, canvas.height)..within(bottom, canvas.height) {
        for x in within(left, canvas.width)..within(right, canvas.width) {
            canvas.blend(x, y, colour, 1.0);
        }
    }
}
