"""MAML (Finn, Abbeel, Levine, ICML 2017, Alg. 2) and ANIL (Raghu et al., ICLR 2020).

Chosen where the listings are silent: the meta-gradient is the mean over the tasks of a step (MAML's
paper sums); the outer step is plain or standard Adam (0.9, 0.999, eps = 1e-8 outside the root).

The problem: task i has support rows S_i and query rows Q_i of features a and labels b = +-1, and a loss on rows
    MAML: l(w)    = mean log(1 + exp(-b a.w)) + (mu/2) |w|^2
    ANIL: l(W, y) = mean log(1 + exp(-b tanh(W a).y)) + (mu/2) |y|^2
with derivatives written by hand.
"""

import numpy as np


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


class Logistic:
    """l(w) on rows (a, b)."""

    def __init__(self, a, b, mu):
        self.a, self.b, self.mu = a, b, mu

    def value(self, w):
        return np.mean(np.logaddexp(0.0, -self.b * (self.a @ w))) + 0.5 * self.mu * (w @ w)

    def gradient(self, w):
        slope = -self.b * sigmoid(-self.b * (self.a @ w))
        return self.a.T @ slope / len(self.b) + self.mu * w

    def hessian(self, w, u):
        e = sigmoid(-self.b * (self.a @ w))
        return self.a.T @ (e * (1.0 - e) * (self.a @ u)) / len(self.b) + self.mu * u


class Features:
    """l(W, y) on rows (a, b), z = tanh(W a) a row."""

    def __init__(self, a, b, mu):
        self.a, self.b, self.mu = a, b, mu

    def value(self, W, y):
        return Logistic(np.tanh(self.a @ W.T), self.b, self.mu).value(y)

    def gradient_y(self, W, y):
        return Logistic(np.tanh(self.a @ W.T), self.b, self.mu).gradient(y)

    def hessian_y(self, W, y, u):
        return Logistic(np.tanh(self.a @ W.T), self.b, self.mu).hessian(y, u)

    def gradient_W(self, W, y):
        # d/dz of log(1 + exp(-b z.y)) is s y, s = -b sigmoid(-b z.y); dz = (1 - z^2) (dW a)
        z = np.tanh(self.a @ W.T)
        s = -self.b * sigmoid(-self.b * (z @ y))
        return ((1.0 - z**2) * s[:, None] * y).T @ self.a / len(self.b)

    def cross(self, W, y, u):
        """J[u]: the gradient in W of (gradient in y).u = mean s (z.u) + mu y.u."""
        z = np.tanh(self.a @ W.T)
        e = sigmoid(-self.b * (z @ y))
        s, slope = -self.b * e, e * (1.0 - e)
        towards_z = (slope * (z @ u))[:, None] * y + s[:, None] * u
        return ((1.0 - z**2) * towards_z).T @ self.a / len(self.b)


def maml(tasks, x0, drawn, *, alpha, D):
    """Yields (meta-gradient, adapted weights of each task) and is sent the next x. `tasks[i]` is (support, query)."""
    x = x0
    for chosen in drawn:
        total, ends = np.zeros_like(x), []
        for i in chosen:
            support, query = tasks[i]
            # y^0 = x (all weights);  y^t = y^{t-1} - alpha grad l_i(y^{t-1}), t = 1..D
            y = [x]
            for t in range(1, D + 1):
                y.append(y[t - 1] - alpha * support.gradient(y[t - 1]))
            # p = grad q_i(y^D); for t = D-1..0: p <- p - alpha hess l_i(y^t)[p]
            p = query.gradient(y[D])
            for t in range(D - 1, -1, -1):
                p = p - alpha * support.hessian(y[t], p)
            total = total + p
            ends.append(y[D])
        # meta-gradient = mean_i p
        x = yield total / len(chosen), np.array(ends)


def anil(tasks, x0, drawn, *, alpha, D):
    """The same for x = (W, theta): body and head start."""
    W, theta = x0
    for chosen in drawn:
        W_total, theta_total, ends = np.zeros_like(W), np.zeros_like(theta), []
        for i in chosen:
            support, query = tasks[i]
            # y^0 = theta;  y^t = y^{t-1} - alpha grad_y l_i(w, y^{t-1}), t = 1..D
            y = [theta]
            for t in range(1, D + 1):
                y.append(y[t - 1] - alpha * support.gradient_y(W, y[t - 1]))
            # reverse mode (reverse.py) with x = w: g for w; for theta the exit value of p
            p, g = query.gradient_y(W, y[D]), query.gradient_W(W, y[D])
            for t in range(D - 1, -1, -1):
                g = g - alpha * support.cross(W, y[t], p)
                p = p - alpha * support.hessian_y(W, y[t], p)
            W_total, theta_total = W_total + g, theta_total + p
            ends.append(y[D])
        # mean over tasks
        W, theta = yield (W_total / len(chosen), theta_total / len(chosen)), np.array(ends)


def run(listing, x0, drawn, *, beta, upper="plain", b1=0.9, b2=0.999, eps=1e-8):
    """x <- x - beta(k) meta-gradient, or Adam; `listing` is one of the generators above. x may be a tuple of arrays."""
    many = isinstance(x0, tuple)
    x = list(x0) if many else [x0]
    m, s = [np.zeros_like(part) for part in x], [np.zeros_like(part) for part in x]
    trajectory, answer = [], next(listing)
    for k in range(len(drawn)):
        meta, ends = answer
        for i, g in enumerate(meta if many else [meta]):
            if upper == "plain":
                x[i] = x[i] - beta(k) * g
            else:
                m[i] = b1 * m[i] + (1.0 - b1) * g
                s[i] = b2 * s[i] + (1.0 - b2) * g**2
                m_hat, s_hat = m[i] / (1.0 - b1 ** (k + 1)), s[i] / (1.0 - b2 ** (k + 1))
                x[i] = x[i] - beta(k) * m_hat / (np.sqrt(s_hat) + eps)
        now = tuple(x) if many else x[0]
        trajectory.append(dict(x=now, y=ends))
        if k + 1 < len(drawn):
            answer = listing.send(now)
    return trajectory
