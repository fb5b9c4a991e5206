import time


def ten_milliseconds(ctx):
    time.sleep(0.01)


def nothing(ctx):
    pass
