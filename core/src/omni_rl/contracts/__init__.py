"""What crosses a border between core's rooms, plugins and processes: hooks, requests, types, interfaces."""
