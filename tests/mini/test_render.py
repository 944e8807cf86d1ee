"""The software renderer: what covers what, how deep it is, and how it is lit."""

import numpy as np
import pytest

from ibllm_tools.errors import InvalidRequestError
from ibllm_tools.mini.world.render import BACKGROUND, Backdrop, Body, Ground, Light, render

FRONT_LIGHT = Light(np.array([0.0, 0.0, 1.0]), ambient=0.5, diffuse=0.5)
GREY = Backdrop(np.full((2, 3), 0.5), angle=0.0, noise=np.zeros((2, 2, 3)), distance=8.0)
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def square(half: float, depth: float, colour: tuple[float, float, float], *, slant: float = 0.0) -> Body:
    """A square of two triangles across the view; its depth grows by ``slant`` per metre to the right."""
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    vertices = np.column_stack([corners, -depth - slant * corners[:, 0]])
    return Body(vertices, np.array([[0, 1, 2], [0, 2, 3]]), np.array([colour, colour]))


def test_a_square_covers_its_perspective_projection():
    mask = render([square(0.5, 2.0, RED)], FRONT_LIGHT, GREY, tan_half_view=0.5, size=32).mask

    expected = np.zeros((32, 32), dtype=bool)
    expected[8:24, 8:24] = True
    np.testing.assert_array_equal(mask, expected)


def test_depth_is_exact_on_a_slanted_surface():
    rendering = render([square(4.0, 2.0, RED, slant=0.4)], FRONT_LIGHT, GREY, tan_half_view=0.5, size=32)

    # Along the ray (x', y', -1) the surface z = -2 - 0.4 x lies at depth 2 / (1 - 0.4 x').
    ray_x = ((np.arange(32) + 0.5) / 32 * 2 - 1) * 0.5
    expected = np.broadcast_to(2 / (1 - 0.4 * ray_x), (32, 32))
    np.testing.assert_allclose(rendering.depth, expected, rtol=2e-4)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_body_hides_the_farther_one(order):
    bodies = [square(0.25, 2.0, RED), square(1.0, 3.0, BLUE)]
    rendering = render([bodies[i] for i in order], FRONT_LIGHT, GREY, tan_half_view=0.5, size=32)

    assert rendering.instances[16, 16] == order.index(0)
    assert rendering.rgb[16, 16].tolist() == [255, 0, 0]
    assert rendering.rgb[8, 8].tolist() == [0, 0, 255]
    assert rendering.instances[0, 0] == BACKGROUND


def test_a_finely_cut_surface_has_no_cracks():
    rng = np.random.default_rng(0)
    steps = np.linspace(-1, 1, 12)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    vertices = np.column_stack([grid + rng.uniform(-0.05, 0.05, grid.shape), np.full(len(grid), -2.0)])
    corner = (np.arange(11)[:, None] * 12 + np.arange(11)).ravel()
    faces = np.concatenate([np.stack(c, axis=1) for c in ((corner, corner + 1, corner + 13),
                                                          (corner, corner + 13, corner + 12))])  # fmt: skip
    body = Body(vertices, faces, np.tile(RED, (len(faces), 1)))

    rgb = render([body], FRONT_LIGHT, GREY, tan_half_view=0.4, size=64).rgb

    np.testing.assert_array_equal(rgb, np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), rgb.shape))


def test_both_sides_of_a_face_are_visible_and_lit_alike():
    front = square(0.5, 2.0, RED)
    back = Body(front.vertices, front.faces[:, ::-1], front.colours)

    images = [render([body], FRONT_LIGHT, GREY, tan_half_view=0.5, size=16).rgb for body in (front, back)]

    np.testing.assert_array_equal(*images)


def test_a_face_turned_from_the_light_keeps_the_ambient_light():
    behind = Light(np.array([0.0, 0.0, -1.0]), ambient=0.4, diffuse=0.6)
    rgb = render([square(2.0, 2.0, RED)], behind, GREY, tan_half_view=0.5, size=8).rgb
    assert rgb[4, 4].tolist() == [102, 0, 0]


def test_edges_are_smoothed():
    # At two metres the image spans two metres: the square's edge halves the outermost pixels that it touches.
    rgb = render([square(0.375, 2.0, RED)], FRONT_LIGHT, GREY, tan_half_view=0.5, size=8).rgb
    assert rgb[4, 1:5].tolist() == [[128, 128, 128], [191, 64, 64], [255, 0, 0], [255, 0, 0]]


def test_faces_at_or_behind_the_camera_are_left_out():
    assert not render([square(0.5, -2.0, RED)], FRONT_LIGHT, GREY, tan_half_view=0.5, size=8).mask.any()


def test_faces_without_area_leave_no_trace():
    line = Body(np.array([[-1.0, 0, -2], [1, 0, -2], [0, 0, -2]]), np.array([[0, 1, 2], [0, 0, 1]]), np.ones((2, 3)))
    assert not render([line], FRONT_LIGHT, GREY, tan_half_view=0.5, size=9).mask.any()


def test_the_ground_lies_below_the_horizon_and_carries_a_shadow():
    ground = Ground(
        point=np.array([0.0, -0.5, -2.0]),
        normal=np.array([0.0, 1.0, 0.0]),
        colour=np.full(3, 0.5),
        shadow_centres=np.array([[0.0, -0.5, -2.0]]),
        shadow_radii=np.array([0.3]),
        shadow_strength=0.5,
    )
    backdrop = Backdrop(GREY.colours, 0.0, GREY.noise, distance=8.0, ground=ground)

    rendering = render([], FRONT_LIGHT, backdrop, tan_half_view=0.5, size=64)

    assert (rendering.depth[:32] == 8.0).all()
    row = 48  # its ray falls by 0.2578 per metre of depth
    np.testing.assert_allclose(rendering.depth[row], 0.5 / 0.2578, rtol=1e-3)
    assert rendering.rgb[row, 32, 0] < 80 < 120 < rendering.rgb[row, 0, 0]


def test_greyscale_is_the_luminance_in_three_channels():
    colour, grey = (
        render([square(0.5, 2.0, RED)], FRONT_LIGHT, GREY, tan_half_view=0.5, size=16, greyscale=flag).rgb
        for flag in (False, True)
    )
    assert (grey == grey[..., :1]).all()
    np.testing.assert_allclose(grey[..., 0], colour @ [0.299, 0.587, 0.114], atol=1)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(InvalidRequestError, match="at least 1 pixel"):
        render([], FRONT_LIGHT, GREY, tan_half_view=0.5, size=0)
