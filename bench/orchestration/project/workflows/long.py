"""One job that is at work when its server or its worker is killed."""

from pinrail import template

workflow = {template(name='long', shell='sleep 3600'): []}
