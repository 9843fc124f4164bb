from keras_transfer.base.progress import Progress


class Recorder(Progress):
    """Keeps what is noted, in order, and shows nothing."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)
