"""Speed and memory, as ratios against textbook implementations written here and measured in the same run."""
