from keras_transfer.base.progress import Progress


class Recorder(Progress):
    """Keeps what is noted, which stages begin and what is expected, in order; shows nothing."""

    def __init__(self):
        self.notes, self.stages, self.expected = [], [], []

    def note(self, text):
        self.notes.append(text)

    def stage(self, name):
        self.stages.append(name)

    def expect(self, seconds, units=None):
        self.expected.append((dict(seconds), dict(units or {})))
