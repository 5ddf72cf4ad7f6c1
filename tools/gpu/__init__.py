"""What tools/gpu_check.py does. Standard library only: specrt is not built yet when it begins."""
