# Says as JSON how the process that runs this is contained: by what it finds, not by what it was told.
import json
import os
import sys
import time


def is_adopted():
    """Whether a process whose parent has died becomes a child of this one."""
    me = os.getpid()
    read, write = os.pipe()
    if os.fork() == 0:
        middle = os.getpid()
        if os.fork() == 0:
            while os.getppid() == middle:
                time.sleep(0.001)
            os.write(write, b'%d' % os.getppid())
        os._exit(0)
    os.close(write)
    return int(os.read(read, 32) or 0) == me


def is_hidden(path):
    """Whether a file that is there cannot be read."""
    try:
        open(path).close()
    except PermissionError:
        return os.path.exists(path)
    return False


with open('/proc/self/status') as file:
    status = dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)
with open('/proc/self/net/dev') as file:
    links = [line.split(':')[0].strip() for line in file if ':' in line]
print(
    json.dumps(
        {
            'no_new_privileges': status.get('NoNewPrivs') == '1',
            'offline': set(links) <= {'lo'},
            'own_session': os.getsid(0) == os.getpid(),
            'adopts': is_adopted(),
            'hidden': is_hidden(sys.argv[1]),
        }
    )
)
