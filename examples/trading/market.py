"""gym-trading-env's market over arch's S&P 500, seeded and with the years that one asks for."""

import functools
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from examples.trading import DAYS

POSITIONS = (0.0, 0.5, 1.0)
"""Share of the portfolio in the market that each action asks for; the rest is cash without interest."""
FEATURES = ("above_200", "drawdown", "return_1", "return_5", "return_20", "return_60", "volatility_20", "volume")
"""What is seen beside the position, all of it of the close of the day and before, in percent:

- ``above_200``: close against the mean of the last 200 days
- ``drawdown``: close against the highest of the last 200 days, 0 or negative
- ``return_N``: log return of the last N days
- ``volatility_20``: standard deviation of the log returns of the last 20 days
- ``volume``: mean volume of the last 20 days against that of 200, as a logarithm
"""
FIRST, LAST = 1999, 2018
"""Years of the record. The first 200 days are only looked back upon: an episode begins in October 1999 at the earliest.
"""


@functools.cache
def prices() -> Any:
    """Open, high, low, close and the features of every day after the first 200, as a pandas DataFrame."""
    from arch.data import sp500

    frame = sp500.load()
    frame.columns = [str(name).lower() for name in frame.columns]
    close, volume = (
        np.log(frame["close"]),
        np.log(frame["volume"].rolling(20).mean() / frame["volume"].rolling(200).mean()),
    )
    daily = close.diff()
    seen = {
        "above_200": np.log(frame["close"] / frame["close"].rolling(200).mean()),
        "drawdown": np.log(frame["close"] / frame["close"].rolling(200).max()),
        **{f"return_{days}": close.diff(days) for days in (1, 5, 20, 60)},
        "volatility_20": daily.rolling(20).std(),
        "volume": volume,
    }
    for name in FEATURES:
        frame[f"feature_{name}"] = 100 * seen[name]
    return frame[["open", "high", "low", "close", *(f"feature_{name}" for name in FEATURES)]].dropna()


def _trading_env() -> Any:
    """gym-trading-env's class; importing it turns every warning of the process into an error, which is undone here."""
    with warnings.catch_warnings():
        from gym_trading_env.environments import TradingEnv
    return TradingEnv


class SP500(gymnasium.Env[Any, Any]):
    """Trading that begins in cash on a day drawn from ``years``.

    The action is the position held from this close to the next, one of `POSITIONS`; nothing is traded while it stays
    the same. The reward is the day's log return after fees, in percent. ``info`` has ``date``, ``position``,
    ``turnover`` (share of the portfolio that was traded), ``market_return`` (the day's log return of the index, in
    percent, which pays no fee), and the ``year`` in which it began: episodes of one year share most of their days, and
    are judged as one (``--cluster year``).
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        years: tuple[int, int] = (1999, 2012),
        fee: float = 0.001,
        days: int = DAYS,
        render_mode: str | None = None,
    ) -> None:
        """Makes the market.

        Args:
            years: the first and the last year of which days are seen.
            fee: share of what is traded that is lost.
            days: of an episode, a year by default; with as many as all ``years`` have, the market changes under the
                policy as it did.
            render_mode: None; nothing is drawn.

        Raises:
            ValueError: the record has no such years, or a number has no meaning.
        """
        first, last = (int(year) for year in years)
        if not FIRST <= first < last <= LAST:
            raise ValueError(f"'years' must be two years from {FIRST} to {LAST}, the second the later, got {years}.")
        if not 0 <= fee < 1:
            raise ValueError(f"'fee' must be a share from 0 to 1, got {fee}.")
        trading_env = _trading_env()  # first: its absence names the extra
        frame = prices()
        frame = frame[(frame.index.year >= first) & (frame.index.year <= last)]
        if not 2 <= days < len(frame):
            raise ValueError(f"'days' must be from 2 to {len(frame) - 1}, which {first} to {last} have, got {days}.")
        self.render_mode = render_mode
        self._inner = trading_env(
            frame,
            positions=list(POSITIONS),
            dynamic_feature_functions=[lambda history: history["real_position", -1]],
            trading_fees=float(fee),
            initial_position=0.0,
            max_episode_duration=int(days),
            verbose=0,
        )
        self.action_space = self._inner.action_space
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (1,), np.float32) for name in (*FEATURES, "position")}
        )

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Draws the day on which it begins."""
        super().reset(seed=seed)
        kept = np.random.get_state()  # noqa: NPY002 -- it draws from NumPy's global state, whatever its seed
        np.random.seed(int(self.np_random.integers(2**31)))  # noqa: NPY002
        try:
            obs, info = self._inner.reset()
        finally:
            np.random.set_state(kept)  # noqa: NPY002
        self._info, self._begun = info, int(str(info["date"])[:4])
        return self._seen(obs), self._told(0.0, 0.0)

    def step(self, action: int) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        """Trades at this close; one day."""
        before = self._info
        obs, reward, terminated, truncated, self._info = self._inner.step(int(action))
        traded = self._info["position"] != before["position"]
        turnover = abs(self._info["position"] - before["real_position"]) if traded else 0.0
        market = 100 * float(np.log(self._info["data_close"] / before["data_close"]))
        return self._seen(obs), 100 * float(reward), terminated, truncated, self._told(turnover, market)

    def _seen(self, obs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {name: obs[i : i + 1].copy() for i, name in enumerate((*FEATURES, "position"))}

    def _told(self, turnover: float, market: float) -> dict[str, Any]:
        date, position = str(self._info["date"])[:10], float(self._info["real_position"])
        told = {"position": position, "turnover": float(turnover), "market_return": market}
        return {"date": date, "year": self._begun, **told}
