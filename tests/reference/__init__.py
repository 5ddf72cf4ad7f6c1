"""The reference that every test of specrt compares with: NumPy, written from the papers.

Readable by eye and slow. It shares no code with the runtime, and decides no tolerance outside
`tolerances`.
"""
